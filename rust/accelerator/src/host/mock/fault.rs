//! Declares the faults of the mock, and what each costs.

/// A fault of the mock. Each happens once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// The frame is done, without an interrupt.
    LostInterrupt,
    /// Interrupts without a reason.
    SpuriousInterrupts,
    /// All kernels stop.
    Hang,
    /// Store stops.
    StoreHangs,
    /// The frame is done after the deadline; the mock writes its output after the reset.
    Late,
    /// Registers read as all ones until the reset.
    BusError,
    /// One register access fails.
    BrokenTransport,
    /// A transfer was cut short, and the output's status reports it.
    ShortDma,
    /// A bit of the logits is wrong.
    CorruptLogits,
    /// A bit of the trailer is wrong.
    CorruptTrailer,
    /// The identity is wrong until the reset.
    WrongIdentity,
    /// The frame is done, but nothing was written.
    NoOutput,
    /// The host's cache keeps its old lines.
    StaleCache,
    /// The segment's last command has an unknown unit.
    NoUnit,
    /// A bit of a segment's commands is wrong until the driver writes them again.
    FlippedCommand,
}

impl Fault {
    pub(crate) const ALL: [Self; 15] = [
        Self::LostInterrupt,
        Self::SpuriousInterrupts,
        Self::Hang,
        Self::StoreHangs,
        Self::Late,
        Self::BusError,
        Self::BrokenTransport,
        Self::ShortDma,
        Self::CorruptLogits,
        Self::CorruptTrailer,
        Self::WrongIdentity,
        Self::NoOutput,
        Self::StaleCache,
        Self::NoUnit,
        Self::FlippedCommand,
    ];

    /// Returns the kind of error that a frame gets; `None` if no frame fails.
    pub(crate) const fn error(self) -> Option<&'static str> {
        match self {
            Self::LostInterrupt | Self::SpuriousInterrupts => None,
            Self::Hang | Self::StoreHangs | Self::Late => Some("DeviceTimeout"),
            Self::BusError | Self::BrokenTransport | Self::NoUnit | Self::FlippedCommand => {
                Some("DeviceFault")
            }
            Self::ShortDma
            | Self::CorruptLogits
            | Self::CorruptTrailer
            | Self::NoOutput
            | Self::StaleCache => Some("CorruptOutput"),
            Self::WrongIdentity => Some("WrongBitstream"),
        }
    }
}
