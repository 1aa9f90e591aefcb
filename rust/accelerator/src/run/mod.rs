//! Walks the steps of commands: two runs of one description, [`crate::unit`].
//!
//! | module | what it does | what comes out |
//! |---|---|---|
//! | [`check`] | proves that no order of the units stops or races | [`check::Report`] |
//! | [`time`] | clocks the steps on the units, their queues and depths | cycles, stalls: modelled |

pub mod check;
pub mod time;
