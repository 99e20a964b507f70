//! The one dtype table: torch name, numpy name, ACL number, safetensors name, bytes per element.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Element type of a tensor as it lies on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the variants are the names")]
pub enum DType {
    Float64,
    Float32,
    Float16,
    BFloat16,
    Float8E4M3Fn,
    Float8E5M2,
    Float8E8M0,
    HiFloat8,
    Int64,
    Int32,
    Int16,
    Int8,
    UInt64,
    UInt32,
    UInt16,
    UInt8,
    Bool,
    Complex32,
    Complex64,
    Complex128,
    /// Packing on disk unknown: carried as raw bytes, one per element.
    Int4,
    /// Packing on disk unknown: carried as raw bytes, one per element.
    UInt1,
    /// Packing on disk unknown: carried as raw bytes, one per element.
    Float6E3M2,
    /// Packing on disk unknown: carried as raw bytes, one per element.
    Float6E2M3,
    /// Packing on disk unknown: carried as raw bytes, one per element.
    Float4E2M1,
    /// Packing on disk unknown: carried as raw bytes, one per element.
    Float4E1M2,
    /// A C++ string object's memory: carried as raw bytes.
    String,
}

/// What a dtype's values are, which decides how they are measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Binary floating point.
    Float,
    /// Signed or unsigned integer.
    Int,
    /// One byte, 0 or 1.
    Bool,
    /// Pairs of floats (real, imaginary).
    Complex,
    /// Bytes without a known meaning: only equality can be measured.
    Raw,
}

/// One row of the dtype table.
#[derive(Debug)]
pub struct DTypeRow {
    /// The dtype this row is about.
    pub dtype: DType,
    /// torch's name without the `torch.` prefix, or the field's usual name where torch has none.
    pub name: &'static str,
    /// numpy's or `ml_dtypes`' name of a dtype with the same bytes.
    pub numpy: &'static str,
    /// `aclDataType` number.
    pub acl: i32,
    /// Name in a safetensors header.
    pub safetensors: Option<&'static str>,
    /// Bytes per element.
    pub size: usize,
    /// How its values are measured.
    pub kind: Kind,
}

const fn row(
    dtype: DType,
    name: &'static str,
    numpy: &'static str,
    acl: i32,
    safetensors: Option<&'static str>,
    size: usize,
    kind: Kind,
) -> DTypeRow {
    DTypeRow { dtype, name, numpy, acl, safetensors, size, kind }
}

/// Every dtype, in the order of the enum.
pub static TABLE: [DTypeRow; 27] = [
    row(DType::Float64, "float64", "float64", 11, Some("F64"), 8, Kind::Float),
    row(DType::Float32, "float32", "float32", 0, Some("F32"), 4, Kind::Float),
    row(DType::Float16, "float16", "float16", 1, Some("F16"), 2, Kind::Float),
    row(DType::BFloat16, "bfloat16", "bfloat16", 27, Some("BF16"), 2, Kind::Float),
    row(DType::Float8E4M3Fn, "float8_e4m3fn", "float8_e4m3fn", 36, Some("F8_E4M3"), 1, Kind::Float),
    row(DType::Float8E5M2, "float8_e5m2", "float8_e5m2", 35, Some("F8_E5M2"), 1, Kind::Float),
    row(DType::Float8E8M0, "float8_e8m0fnu", "float8_e8m0fnu", 37, Some("F8_E8M0"), 1, Kind::Float),
    row(DType::HiFloat8, "hifloat8", "uint8", 34, None, 1, Kind::Float),
    row(DType::Int64, "int64", "int64", 9, Some("I64"), 8, Kind::Int),
    row(DType::Int32, "int32", "int32", 3, Some("I32"), 4, Kind::Int),
    row(DType::Int16, "int16", "int16", 6, Some("I16"), 2, Kind::Int),
    row(DType::Int8, "int8", "int8", 2, Some("I8"), 1, Kind::Int),
    row(DType::UInt64, "uint64", "uint64", 10, Some("U64"), 8, Kind::Int),
    row(DType::UInt32, "uint32", "uint32", 8, Some("U32"), 4, Kind::Int),
    row(DType::UInt16, "uint16", "uint16", 7, Some("U16"), 2, Kind::Int),
    row(DType::UInt8, "uint8", "uint8", 4, Some("U8"), 1, Kind::Int),
    row(DType::Bool, "bool", "bool", 12, Some("BOOL"), 1, Kind::Bool),
    row(DType::Complex32, "complex32", "uint32", 33, None, 4, Kind::Complex),
    row(DType::Complex64, "complex64", "complex64", 16, Some("C64"), 8, Kind::Complex),
    row(DType::Complex128, "complex128", "complex128", 17, None, 16, Kind::Complex),
    row(DType::Int4, "int4", "uint8", 29, None, 1, Kind::Raw),
    row(DType::UInt1, "uint1", "uint8", 30, None, 1, Kind::Raw),
    row(DType::Float6E3M2, "float6_e3m2", "uint8", 38, None, 1, Kind::Raw),
    row(DType::Float6E2M3, "float6_e2m3", "uint8", 39, None, 1, Kind::Raw),
    row(DType::Float4E2M1, "float4_e2m1", "uint8", 40, None, 1, Kind::Raw),
    row(DType::Float4E1M2, "float4_e1m2", "uint8", 41, None, 1, Kind::Raw),
    row(DType::String, "string", "uint8", 13, None, 1, Kind::Raw),
];

impl DType {
    /// This dtype's row of the table.
    #[must_use]
    pub fn row(self) -> &'static DTypeRow {
        &TABLE[self as usize]
    }

    /// torch's name without the `torch.` prefix.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// Bytes per element.
    #[must_use]
    pub fn size(self) -> usize {
        self.row().size
    }

    /// How its values are measured.
    #[must_use]
    pub fn kind(self) -> Kind {
        self.row().kind
    }

    /// Whether its elements are floating point numbers.
    #[must_use]
    pub fn is_float(self) -> bool {
        self.kind() == Kind::Float
    }

    /// From an `aclDataType` number.
    #[must_use]
    pub fn from_acl(number: i32) -> Option<Self> {
        TABLE.iter().find(|r| r.acl == number).map(|r| r.dtype)
    }

    /// From a torch or numpy name, with or without the `torch.` prefix.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        let name = name.strip_prefix("torch.").unwrap_or(name);
        match name {
            "half" => Some(Self::Float16),
            "float" => Some(Self::Float32),
            "double" => Some(Self::Float64),
            "float8_e8m0" => Some(Self::Float8E8M0),
            _ => TABLE.iter().find(|r| r.name == name).map(|r| r.dtype),
        }
    }

    /// From the name in a safetensors header.
    #[must_use]
    pub fn from_safetensors(name: &str) -> Option<Self> {
        TABLE.iter().find(|r| r.safetensors == Some(name)).map(|r| r.dtype)
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_is_in_enum_order() {
        for (i, row) in TABLE.iter().enumerate() {
            assert_eq!(row.dtype as usize, i, "{}", row.name);
        }
    }

    #[test]
    fn acl_numbers_and_names_are_unique() {
        for a in &TABLE {
            assert_eq!(DType::from_acl(a.acl), Some(a.dtype));
            assert_eq!(DType::from_name(a.name), Some(a.dtype));
        }
    }
}
