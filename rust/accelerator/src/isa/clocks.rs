//! Declares the word that shows whether the accelerator has its clocks (`fpga/rtl/clock_status.v`).
//! It is wired to GPIO inputs of the processing system (EMIO), and is no register of the
//! accelerator: reading it needs no clock in the fabric.

/// Upper half of the word ("QV").
pub const IDENTITY: u32 = 0x5156;
/// GPIO inputs of the word, from EMIO 0 on, its lowest bit first.
pub const LINES: u32 = 32;
/// A rate equal to that of the processing system's clock: rates are in quarters of it.
const EQUAL: u32 = 4;

/// Values of the beat.
const BEATS: u32 = 32;

/// The state of the accelerator's clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockStatus {
    /// Counts while the processing system's clock runs; any value when it is read.
    pub beat: u32,
    /// Cycles of the array in a cycle of the kernels, as the design was built: 1 or 2.
    pub ratio: u32,
    /// The MMCM is locked; without one, the processing system has released the fabric's reset,
    /// which an MMCM needs to lock.
    pub locked: bool,
    /// Measured rate of the array's clock, in quarters of the processing system's clock, at most
    /// 15.
    pub array: u32,
    /// Measured rate of the kernels' clock, likewise.
    pub kernels: u32,
}

impl ClockStatus {
    /// Returns the state in which all clocks run.
    pub const fn running(ratio: u32) -> Self {
        Self {
            beat: 0,
            ratio,
            locked: true,
            array: EQUAL * ratio,
            kernels: EQUAL,
        }
    }

    /// Returns the word.
    pub const fn word(self) -> u32 {
        IDENTITY << 16
            | self.beat << 11
            | self.ratio << 9
            | (self.locked as u32) << 8
            | self.array << 4
            | self.kernels
    }

    /// Reads a word; `None` if the design that is loaded has no such word.
    pub fn of(word: u32) -> Option<Self> {
        let status = Self {
            beat: word >> 11 & (BEATS - 1),
            ratio: word >> 9 & 3,
            locked: word >> 8 & 1 == 1,
            array: word >> 4 & 15,
            kernels: word & 15,
        };
        (status.word() == word && (1..=2).contains(&status.ratio)).then_some(status)
    }

    /// Returns why the registers must not be accessed, and what to do; `None` if all clocks run.
    /// Without an MMCM, which would lose its lock, a stopped clock is noticed by the status
    /// `before`: its beat is the same.
    pub fn problem(self, before: Option<Self>) -> Option<String> {
        let stands = self.ratio == 1 && before.is_none_or(|before| before.beat == self.beat);
        let rated = self
            == Self {
                beat: self.beat,
                ..Self::running(self.ratio)
            };
        if rated && !stands {
            return None;
        }
        let Self {
            beat: _,
            ratio,
            locked,
            array,
            kernels,
        } = self;
        let found = if !locked && ratio == 1 {
            "the processing system holds the fabric in reset (pl_resetn0, FCLK_RESET0_N)".to_owned()
        } else if !locked {
            "the MMCM is not locked, so the accelerator has no clock".to_owned()
        } else if rated {
            "the fabric's clock stands".to_owned()
        } else if kernels == EQUAL {
            format!(
                "the array's clock has {} times the rate of the kernels' clock instead of {ratio}",
                f64::from(array) / f64::from(EQUAL)
            )
        } else {
            format!(
                "the kernels' clock has {} times the rate of the processing system's clock instead of 1",
                f64::from(kernels) / f64::from(EQUAL)
            )
        };
        Some(format!(
            "{found}; an access to its registers might never end. Set the fabric's clock (pl_clk0, FCLK_CLK0) to the \
             configuration's, then load the bitstream again"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_read_as_it_was_written() {
        for ratio in [1, 2] {
            for bits in 0..1 << 9 {
                let status = ClockStatus {
                    beat: bits % BEATS,
                    ratio,
                    locked: bits >> 8 == 1,
                    array: bits >> 4 & 15,
                    kernels: bits & 15,
                };
                assert_eq!(ClockStatus::of(status.word()), Some(status));
                let beat = status.beat;
                let running = ClockStatus::running(ratio);
                let runs = status == ClockStatus { beat, ..running };
                let before = ClockStatus {
                    beat: beat ^ 1,
                    ..running
                };
                assert_eq!(status.problem(Some(before)).is_none(), runs, "{status:?}");
            }
        }
        assert_eq!(ClockStatus::running(2).word(), 0x5156_0584);
        // Nothing, another design, a ratio or bits that no design has.
        for word in [0, u32::MAX, 0x1234_0584, 0x5156_0184, 0x5156_0784] {
            assert_eq!(ClockStatus::of(word), None, "{word:#x}");
        }
    }

    #[test]
    fn a_problem_says_what_is_wrong() {
        let problem = |change: fn(&mut ClockStatus)| {
            let mut status = ClockStatus::running(2);
            change(&mut status);
            status.problem(None).unwrap()
        };
        assert!(problem(|s| s.locked = false).contains("not locked"));
        let in_reset = |s: &mut ClockStatus| (s.ratio, s.array, s.locked) = (1, 4, false);
        assert!(problem(in_reset).contains("in reset"));
        assert!(problem(|s| s.array = 6)
            .contains("1.5 times the rate of the kernels' clock instead of 2"));
        assert!(problem(|s| s.kernels = 0).contains("kernels' clock has 0 times"));
    }

    #[test]
    fn a_clock_without_an_mmcm_runs_if_the_beat_moves() {
        let [one, other] = [3, 4].map(|beat| ClockStatus {
            beat,
            ..ClockStatus::running(1)
        });
        assert_eq!(one.problem(Some(other)), None);
        for before in [None, Some(one)] {
            assert!(one.problem(before).unwrap().contains("clock stands"));
        }
    }
}
