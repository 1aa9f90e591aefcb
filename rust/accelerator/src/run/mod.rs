//! Walks the steps of commands: three runs of one description, [`crate::unit`].
//!
//! | module | what it does | what comes out |
//! |---|---|---|
//! | [`check`] | proves that no order of the units stops or races | [`check::Report`] |
//! | [`time`] | clocks the steps on the units, their queues and depths | cycles, stalls: modelled |
//! | `compute` | gives the steps values, untimed | a frame's output, for tests |

pub mod check;
#[cfg(any(test, feature = "fuzzing"))]
pub mod compute;
pub mod time;
