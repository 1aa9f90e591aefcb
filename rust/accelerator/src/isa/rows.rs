//! Declares the memory format of a row's parameters: little-endian, without gaps.

use super::ROW_BYTES;

/// A parameter of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowField {
    /// Name.
    pub name: &'static str,
    /// Bytes.
    pub bytes: usize,
    /// True for a number in two's complement.
    pub signed: bool,
    /// Meaning.
    pub about: &'static str,
}

macro_rules! row_parameters {
    ($( #[doc = $doc:literal] $field:ident : $type:ident, )*) => {
        /// The parameters of a row.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct RowParameters { $( #[doc = $doc] pub $field: $type, )* }

        /// Declarations of the parameters, in order.
        pub const ROW_FIELDS: &[RowField] = &[$( RowField {
            name: stringify!($field),
            bytes: size_of::<$type>(),
            signed: $type::MIN != 0,
            about: $doc,
        }, )*];

        impl RowParameters {
            /// Reads the parameters from a row's [`ROW_BYTES`].
            ///
            /// # Panics
            /// If there are fewer bytes.
            pub fn of(bytes: &[u8]) -> Self {
                let mut at = 0;
                $(
                    let field = bytes[at..].first_chunk().expect("the bytes of a row");
                    let $field = $type::from_le_bytes(*field);
                    at += field.len();
                )*
                assert!(at <= ROW_BYTES);
                Self { $( $field, )* }
            }

            /// Returns the memory format; the bytes after the last parameter are 0.
            pub fn bytes(self) -> [u8; ROW_BYTES] {
                let mut bytes = [0; ROW_BYTES];
                let mut at = 0;
                $(
                    let field = self.$field.to_le_bytes();
                    bytes[at..][..field.len()].copy_from_slice(&field);
                    at += field.len();
                )*
                assert!(at <= ROW_BYTES);
                bytes
            }
        }
    };
}

row_parameters! {
    /// Bias.
    bias: i32,
    /// Mantissa m.
    mult: i16,
    /// Shift.
    shift: u8,
    /// Code of the `destination`.
    destination: u8,
    /// Column c in the destination.
    column: u16,
    /// c div B', for a value.
    value_block: u16,
    /// c mod B', for a value; pair of rows of the head, for a row that is rotated.
    value_bank: u8,
}
