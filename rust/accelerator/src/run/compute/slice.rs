//! Computes as a DSP slice does.

/// A DSP slice during a pass: two products share its accumulator.
pub(super) struct Slice {
    shift: u32,
    /// One 8-bit row: the low nibble is unsigned.
    eight_bit: bool,
    /// The low field is read unsigned.
    unsigned: bool,
    p: i64,
}

impl Slice {
    pub(super) const fn new(shift: u32, eight_bit: bool, probabilities: bool) -> Self {
        Self {
            shift,
            eight_bit,
            unsigned: eight_bit && probabilities,
            p: 0,
        }
    }

    pub(super) fn add(&mut self, weight: u8, activation: i64) {
        let high = i64::from(weight as i8 >> 4);
        let low = i64::from(weight & 15);
        let low = if self.eight_bit || low < 8 {
            low
        } else {
            low - 16
        };
        let p = self.p + ((high << self.shift) + low) * activation;
        // 48 bits.
        self.p = p << 16 >> 16;
    }

    /// Returns the low and the high sum.
    pub(super) const fn finish(self) -> (i64, i64) {
        let unused = 64 - self.shift;
        let low = if self.unsigned {
            ((self.p as u64) << unused >> unused) as i64
        } else {
            self.p << unused >> unused
        };
        (low, (self.p - low) >> self.shift)
    }
}
