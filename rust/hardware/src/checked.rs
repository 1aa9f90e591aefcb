//! Makes hardware of a board and a configuration, and checks both against each other and against
//! what the tools can build.
//!
//! Depends on [`crate::configuration`] and on the limits of [`crate::design`].

use std::sync::Arc;

use quasar_core::error::Result;

use crate::boards::Board;
use crate::configuration::{Configuration, Hardware, DOCUMENT};
use crate::{design, settings};

impl Hardware {
    /// Parses and checks a configuration file for the board that it names.
    ///
    /// # Errors
    /// [`Error::InvalidSettings`] names the key; [`Error::TooLarge`] beyond 1 MiB.
    pub fn from_toml(text: &str, board: Board) -> Result<Self> {
        Self::new(settings::parse(DOCUMENT, text)?, board)
    }

    /// Checks a configuration. `Resources::check` of `quasar-cost` checks that it fits the board.
    ///
    /// # Errors
    /// [`Error::InvalidSettings`] names the key.
    pub fn new(configuration: Configuration, board: impl Into<Arc<Board>>) -> Result<Self> {
        let board = board.into();
        let of_document = |e| settings::of_config(DOCUMENT, e);
        configuration.check(&board).map_err(of_document)?;
        let hardware = Self::unchecked(configuration, board);
        design::check_limits(&hardware).map_err(of_document)?;
        Ok(hardware)
    }

    /// Returns the same configuration at another clock.
    ///
    /// # Errors
    /// [`Error::InvalidSettings`].
    pub fn with_clock(&self, clock_mhz: f64) -> Result<Self> {
        let mut configuration = self.configuration().clone();
        configuration.clock_mhz = clock_mhz;
        Self::new(configuration, Arc::clone(&self.board))
    }
}
