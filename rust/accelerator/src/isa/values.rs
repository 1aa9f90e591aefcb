//! Declares the types of commands' fields, and the named values.

/// A named value of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Value {
    /// Name: in lower case in listings, in upper case in C++.
    pub name: &'static str,
    /// Number in the field.
    pub code: u32,
}

/// A set of named values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Values {
    /// Name of the Rust type; in lower case the C++ namespace.
    pub name: &'static str,
    /// Meaning.
    pub about: &'static str,
    /// The values, in the order of their numbers.
    pub values: &'static [Value],
}

/// Reading of a field's bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// An unsigned number.
    Unsigned,
    /// A number in two's complement.
    Signed,
    /// Yes (1) or no (0).
    Flag,
    /// One of these values.
    Named(&'static Values),
}

/// A Rust type of a command's field.
pub(super) trait FieldType: Sized {
    /// Reading of the field's bits.
    const FORM: Form;
    /// Returns the number that the field holds.
    fn code(self) -> i64;
    /// Returns the value of a number, or `None` if the type has no such value.
    fn from_code(code: i64) -> Option<Self>;
}

macro_rules! numbers {
    ($($type:ty => $form:ident,)*) => { $(
        impl FieldType for $type {
            const FORM: Form = Form::$form;
            fn code(self) -> i64 {
                self as i64
            }
            fn from_code(code: i64) -> Option<Self> {
                Self::try_from(code).ok()
            }
        }
    )* };
}

numbers! {
    u32 => Unsigned,
    u64 => Unsigned,
    i32 => Signed,
}

impl FieldType for bool {
    const FORM: Form = Form::Flag;
    fn code(self) -> i64 {
        self.into()
    }
    fn from_code(code: i64) -> Option<Self> {
        [false, true].get(usize::try_from(code).ok()?).copied()
    }
}

/// Declares enums of named values, and [`VALUES`], the list of their declarations.
macro_rules! values {
    ($(
        #[doc = $about:literal]
        $name:ident {
            $( #[doc = $doc:literal] $value:ident = $code:literal, )*
        }
    )*) => {
        $(
            #[doc = $about]
            #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
            pub enum $name {
                #[default]
                $( #[doc = $doc] $value = $code, )*
            }

            impl $name {
                /// All values, in the order of their numbers.
                pub const ALL: &'static [Self] = &[$( Self::$value, )*];
                /// The declaration.
                pub const VALUES: &'static Values = &Values {
                    name: stringify!($name),
                    about: $about,
                    values: &[$( Value {
                        name: stringify!($value),
                        code: $code,
                    }, )*],
                };

                /// Returns the value that has this number.
                pub fn of_code(code: u32) -> Option<Self> {
                    Self::ALL.iter().copied().find(|&value| value as u32 == code)
                }
            }

            impl FieldType for $name {
                const FORM: Form = Form::Named(Self::VALUES);
                fn code(self) -> i64 {
                    self as i64
                }
                fn from_code(code: i64) -> Option<Self> {
                    Self::of_code(u32::try_from(code).ok()?)
                }
            }
        )*

        /// All sets of named values.
        pub const VALUES: &[&Values] = &[$( $name::VALUES, )*];
    };
}

values! {
    /// Receiver of a transfer's beats (`Load`).
    Target {
        /// Weights of a tile of row pairs, to the array.
        Weights = 0,
        /// Parameters of a tile's rows, to the drain.
        Parameters = 1,
        /// Gains and offsets of a `LayerNorm`, to the norm.
        Gains = 2,
        /// GELU's table, to the drain.
        Table = 3,
        /// Initial values of the residual, to the drain.
        Residual = 4,
        /// Patches of a frame, into the memory `input`.
        Patches = 5,
    }
    /// Memory that a `Gemm` reads its activations from.
    Source {
        /// Patches.
        Input = 0,
        /// Output of a `LayerNorm`.
        Normed = 1,
        /// Queries; after attention, the context.
        Query = 2,
        /// Output of fc1, after GELU.
        Hidden = 3,
    }
    /// Kind of results that the drain computes from a `Gemm`'s sums (`Rows`).
    Kind {
        /// Codes, for the destination of each row.
        Codes = 0,
        /// Updates, added to the residual.
        Residual = 1,
        /// Logits, sent to store.
        Logits = 2,
    }
    /// Destination of a row's results, in the row's parameters.
    Destination {
        /// Memory `query`.
        Query = 0,
        /// Memory `key`.
        Key = 1,
        /// Memory `value`.
        Value = 2,
        /// Memory `hidden`.
        Hidden = 3,
        /// Memory `residual`.
        Residual = 4,
        /// The output.
        Logit = 5,
    }
    /// Pooling of a `LayerNorm`.
    Pooling {
        /// No pooling.
        None = 0,
        /// `LayerNorm` of the tokens' mean.
        Before = 1,
        /// Mean of the normalised tokens.
        After = 2,
        /// No pooling and no normalisation: gain and offset alone.
        Unnormalised = 3,
    }
}
