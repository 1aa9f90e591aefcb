//! In the place of `preempted` on systems where no thread is moved, and in the models of loom,
//! which know no cores.

#[derive(Debug, Default)]
pub(super) struct Seat;

#[allow(clippy::unused_self)] // the interface of `preempted`
impl Seat {
    pub(super) fn take(&self) {}

    pub(super) fn enter(&self) {}

    pub(super) fn is_moved(&self) -> bool {
        false
    }

    pub(super) fn leave(&self) {}

    pub(super) fn go_back(&self) {}

    pub(super) fn fetch_if_preempted(&self) {}
}
