//! The numbers of element types and layouts in GE's dumps, which are those of no other table.

use crate::DType;

/// How the elements of a type are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decoding {
    /// As elements of this type.
    Known(DType),
    /// As the bytes there are: the type is not told.
    Untyped,
    /// Not at all; the name says what it is.
    Opaque(&'static str),
}

/// `OutputDataType` of `dump_data.proto`.
const TYPES: [Decoding; 42] = {
    use DType::{
        BFloat16, Bool, Complex32, Complex64, Complex128, Float4E1M2, Float4E2M1, Float6E2M3, Float6E3M2,
        Float8E4M3Fn, Float8E5M2, Float8E8M0, Float16, Float32, Float64, HiFloat8, Int4, Int8, Int16, Int32,
        Int64, UInt1, UInt8, UInt16, UInt32, UInt64,
    };
    use Decoding::{Known, Opaque, Untyped};
    [
        Untyped,
        Known(Float32),
        Known(Float16),
        Known(Int8),
        Known(UInt8),
        Known(Int16),
        Known(UInt16),
        Known(Int32),
        Known(Int64),
        Known(UInt32),
        Known(UInt64),
        Known(Bool),
        Known(Float64),
        Opaque("string"),
        Known(Int8),
        Known(UInt8),
        Known(Complex64),
        Known(Complex128),
        Known(Int8),
        Known(Int16),
        Known(Int32),
        Known(UInt8),
        Known(UInt16),
        Known(Int64),
        Opaque("string reference"),
        Opaque("dual"),
        Opaque("variant"),
        Known(BFloat16),
        Known(Int4),
        Known(UInt1),
        Opaque("int2"),
        Opaque("uint2"),
        Known(Complex32),
        Known(HiFloat8),
        Known(Float8E5M2),
        Known(Float8E4M3Fn),
        Known(Float8E8M0),
        Known(Float6E3M2),
        Known(Float6E2M3),
        Known(Float4E2M1),
        Known(Float4E1M2),
        Opaque("hifloat4"),
    ]
};

/// The type of a number in a dump's header; `None` for a number that the table does not have.
pub(super) fn decoding(number: u64) -> Option<Decoding> {
    TYPES.get(usize::try_from(number).ok()?).copied()
}

/// The name of a primary format; the number itself where the table has none.
pub(super) fn format_name(number: i32) -> String {
    const NAMES: [&str; 55] = [
        "NCHW",
        "NHWC",
        "ND",
        "NC1HWC0",
        "FRACTAL_Z",
        "NC1C0HWPAD",
        "NHWC1C0",
        "FSR_NCHW",
        "FRACTAL_DECONV",
        "C1HWNC0",
        "FRACTAL_DECONV_TRANSPOSE",
        "FRACTAL_DECONV_SP_STRIDE_TRANS",
        "NC1HWC0_C04",
        "FRACTAL_Z_C04",
        "CHWN",
        "FRACTAL_DECONV_SP_STRIDE8_TRANS",
        "HWCN",
        "NC1KHKWHWC0",
        "BN_WEIGHT",
        "FILTER_HWCK",
        "HASHTABLE_LOOKUP_LOOKUPS",
        "HASHTABLE_LOOKUP_KEYS",
        "HASHTABLE_LOOKUP_VALUE",
        "HASHTABLE_LOOKUP_OUTPUT",
        "HASHTABLE_LOOKUP_HITS",
        "C1HWNCoC0",
        "MD",
        "NDHWC",
        "FRACTAL_ZZ",
        "FRACTAL_NZ",
        "NCDHW",
        "DHWCN",
        "NDC1HWC0",
        "FRACTAL_Z_3D",
        "CN",
        "NC",
        "DHWNC",
        "FRACTAL_Z_3D_TRANSPOSE",
        "FRACTAL_ZN_LSTM",
        "FRACTAL_Z_G",
        "RESERVED",
        "ALL",
        "NULL",
        "ND_RNN_BIAS",
        "FRACTAL_ZN_RNN",
        "YUV",
        "YUV_A",
        "NCL",
        "FRACTAL_Z_WINO",
        "C1HWC0",
        "FRACTAL_NZ_C0_16",
        "FRACTAL_NZ_C0_32",
        "FRACTAL_NZ_C0_2",
        "FRACTAL_NZ_C0_4",
        "FRACTAL_NZ_C0_8",
    ];
    let name = usize::try_from(number).ok().and_then(|i| NAMES.get(i));
    name.map_or_else(|| format!("format {number}"), |name| (*name).to_owned())
}

/// Whether a layout keeps the elements in the order that the shape says.
pub(super) fn is_plain(number: i32) -> bool {
    matches!(number, 0..=2 | 14 | 16 | 27 | 30 | 31 | 34..=36 | 47)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_schema() {
        let known = |n| decoding(n).unwrap();
        assert_eq!(known(2), Decoding::Known(DType::Float16));
        assert_eq!(known(12), Decoding::Known(DType::Float64));
        assert_eq!(known(27), Decoding::Known(DType::BFloat16));
        assert_eq!(known(33), Decoding::Known(DType::HiFloat8));
        assert_eq!(known(36), Decoding::Known(DType::Float8E8M0));
        assert_eq!(known(41), Decoding::Opaque("hifloat4"));
        assert_eq!(decoding(42), None);
        assert_eq!((format_name(2).as_str(), format_name(29).as_str()), ("ND", "FRACTAL_NZ"));
        assert_eq!((format_name(47).as_str(), format_name(54).as_str()), ("NCL", "FRACTAL_NZ_C0_8"));
        assert_eq!(format_name(255), "format 255");
    }
}
