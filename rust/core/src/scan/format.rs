//! From a block of bytes to what it adds to a tensor's health, by kind of dtype.

use super::float::{self, BLOCK, LARGEST, SMALLEST, Word};
use super::health::{Class, Health};
use super::integer;
use crate::DType;
use crate::dtype::Kind;
use crate::stats::decode::{self, Limits};

/// How the numbers of one dtype are scanned.
pub(super) struct Scanner {
    dtype: DType,
    limits: Limits,
    /// The values where saturating arithmetic stops.
    ends: (f64, f64),
    float: Option<FloatBits>,
    /// Value of every byte of a one-byte dtype that is no IEEE-like float.
    table: Option<Box<[f64; 256]>>,
    /// Of how many blocks one is summed.
    every: u64,
    wide: Vec<f64>,
}

/// Tensors of more numbers are summed in every fourth block only: a mean needs no more, and extremes and counts,
/// which do, come from the bits at half the cost.
const SUMMED_WHOLE: u64 = 1 << 20;

/// Magnitude bits at which a float dtype changes its nature.
#[derive(Clone, Copy)]
struct FloatBits {
    mask: u64,
    /// The smallest that is not subnormal.
    normal: u64,
    /// The smallest that is near the maximum.
    near: u64,
    /// The smallest that is not finite.
    infinite: u64,
}

impl Scanner {
    /// For a dtype with numbers; of a complex one, its [`decode::component`].
    pub(super) fn new(dtype: DType, numbers: u64) -> Self {
        let limits = decode::limits(dtype);
        let float = float_bits(dtype, limits);
        let ends = match dtype {
            DType::Int8 => (-127.0, 127.0),
            DType::UInt8 => (f64::NEG_INFINITY, 255.0),
            _ if dtype.kind() == Kind::Float => (-limits.near_max / 0.9, limits.near_max / 0.9),
            _ => (f64::NEG_INFINITY, f64::INFINITY),
        };
        let is_table = dtype.size() == 1 && float.is_none() && !matches!(dtype, DType::Int8 | DType::UInt8);
        let table = is_table.then(|| {
            let bytes: Vec<u8> = (0..=u8::MAX).collect();
            let mut values = Box::new([0.0; 256]);
            decode::to_f64(dtype, &bytes, values.as_mut_slice());
            values
        });
        Self {
            dtype,
            limits,
            ends,
            float,
            table,
            every: if numbers > SUMMED_WHOLE { 4 } else { 1 },
            wide: vec![0.0; BLOCK],
        }
    }

    /// Bytes that one call of [`Self::add`] takes at most: several blocks where a histogram pays.
    pub(super) fn span(&self) -> usize {
        if self.table.is_some() { usize::MAX } else { BLOCK * self.dtype.size() }
    }

    /// Whether the bits of one element are those of a zero.
    pub(super) fn mask(&self) -> u64 {
        self.float.map_or(u64::MAX, |float| float.mask)
    }

    /// Adds numbers; `at` is the place of the first. Returns how many are zero.
    pub(super) fn add(&mut self, bytes: &[u8], at: u64, health: &mut Health) -> u64 {
        health.numbers += (bytes.len() / self.dtype.size()) as u64;
        match self.dtype {
            DType::Float64 => self.add_float::<u64>(bytes, at, health),
            DType::Float32 => self.add_float::<u32>(bytes, at, health),
            DType::Float16 | DType::BFloat16 => self.add_float::<u16>(bytes, at, health),
            DType::Float8E4M3Fn | DType::Float8E5M2 => self.add_float::<u8>(bytes, at, health),
            DType::Int8 => {
                self.add_small_ints(integer::ends_i8(bytemuck::cast_slice(bytes)), bytes, at, health)
            }
            DType::UInt8 => self.add_small_ints(integer::ends_u8(bytes), bytes, at, health),
            _ if self.table.is_some() => self.add_bytes(bytes, at, health),
            _ => self.add_values(bytes, at, health),
        }
    }

    fn add_float<W: Word>(&mut self, bytes: &[u8], at: u64, health: &mut Health) -> u64 {
        let Some(FloatBits { mask, normal, near, infinite }) = self.float else {
            return self.add_values(bytes, at, health);
        };
        let x: &[W] = bytemuck::cast_slice(bytes);
        let ends = W::ends(x);
        if ends.most >= infinite {
            return self.add_values(bytes, at, health);
        }
        let magnitude = |w: &W| w.wide() & mask;
        let find = |wanted: &dyn Fn(u64) -> bool| {
            at + x.iter().position(|w| wanted(magnitude(w))).unwrap_or(0) as u64
        };
        let count = |from: u64| W::count_from(x, from);
        health.add(Class::Zero, ends.zeros, || find(&|m| m == 0));
        let mut least = f64::INFINITY;
        if ends.least > 0 {
            least = self.value(ends.least);
            if ends.least < normal {
                let subnormal = x.len() as u64 - ends.zeros - count(normal);
                health.add(Class::Subnormal, subnormal, || find(&|m| m != 0 && m < normal));
            }
            if ends.most >= near {
                health.add(Class::NearMax, count(near), || find(&|m| m >= near));
                let largest = infinite - 1;
                health.add(Class::Saturated, count(largest), || find(&|m| m == largest));
            }
        }
        health.extend(self.value(ends.low), self.value(ends.high), least);
        if self.is_summed(at) {
            health.add_sums(x.len() as u64, self.moments(bytes, ends.least, ends.most));
        }
        ends.zeros
    }

    /// Whether the block at a place is one of those that are summed.
    fn is_summed(&self, at: u64) -> bool {
        (at / BLOCK as u64).is_multiple_of(self.every)
    }

    /// Numbers of one byte that are integers.
    fn add_small_ints(&self, ends: integer::Ends, bytes: &[u8], at: u64, health: &mut Health) -> u64 {
        let value = |byte: u8| {
            if self.dtype == DType::Int8 { f64::from(byte.cast_signed()) } else { f64::from(byte) }
        };
        let find = |class: Class| {
            let found = bytes.iter().position(|&b| self.classes(value(b)) & 1 << class as u8 != 0);
            at + found.unwrap_or(0) as u64
        };
        health.add(Class::Zero, ends.zeros, || find(Class::Zero));
        health.add(Class::Saturated, ends.saturated, || find(Class::Saturated));
        let least = if ends.least == 0 { f64::INFINITY } else { f64::from(ends.least) };
        health.extend(f64::from(ends.low), f64::from(ends.high), least);
        health.add_sums(bytes.len() as u64, (f64::from(ends.sum), f64::from(ends.squares)));
        ends.zeros
    }

    /// Sum and sum of squares of finite numbers, whose nonzero magnitudes lie between two given as bits.
    fn moments(&mut self, bytes: &[u8], least: u64, most: u64) -> (f64, f64) {
        let narrow = |shift: u32| most == 0 || least << shift >= SMALLEST && most << shift <= LARGEST;
        match self.dtype {
            DType::Float32 if narrow(0) => float::moments_f32(bytemuck::cast_slice(bytes)),
            DType::BFloat16 if narrow(16) => float::moments_bf16(bytemuck::cast_slice(bytes)),
            DType::Float16 => float::moments_f16(bytemuck::cast_slice(bytes)),
            DType::Float8E4M3Fn => float::moments_e4m3(bytes),
            DType::Float8E5M2 => float::moments_e5m2(bytes),
            _ => {
                let wide = &mut self.wide[..bytes.len() / self.dtype.size()];
                decode::to_f64(self.dtype, bytes, wide);
                float::moments_f64(wide)
            }
        }
    }

    /// The value of some bits.
    fn value(&self, bits: u64) -> f64 {
        value(self.dtype, bits)
    }

    /// Any numbers, one by one.
    fn add_values(&mut self, bytes: &[u8], at: u64, health: &mut Health) -> u64 {
        let len = bytes.len() / self.dtype.size();
        let mut wide = std::mem::take(&mut self.wide);
        decode::to_f64(self.dtype, bytes, &mut wide[..len]);
        let mut zeros = 0;
        let mut tally = Tally::default();
        for &x in &wide[..len] {
            let classes = self.classes(x);
            zeros += u64::from(classes & 1 << Class::Zero as u8 != 0);
            tally.add(x, classes, 1);
        }
        tally.finish(health, self.is_summed(at), |class| {
            at + wide[..len].iter().position(|&x| self.classes(x) & 1 << class as u8 != 0).unwrap_or(0) as u64
        });
        self.wide = wide;
        zeros
    }

    /// Numbers of one byte, by their histogram.
    fn add_bytes(&self, bytes: &[u8], at: u64, health: &mut Health) -> u64 {
        let Some(table) = &self.table else { return 0 };
        // Neighbours are often equal, and adding to one counter twice in a row waits for the first to be stored.
        let mut counters = [[0u32; 256]; 4];
        let (quads, tail) = bytes.as_chunks::<4>();
        for quad in quads {
            for (counter, &byte) in counters.iter_mut().zip(quad) {
                counter[usize::from(byte)] += 1;
            }
        }
        for &byte in tail {
            counters[0][usize::from(byte)] += 1;
        }
        let mut zeros = 0;
        let mut tally = Tally::default();
        for (byte, &x) in table.iter().enumerate() {
            let count: u64 = counters.iter().map(|counter| u64::from(counter[byte])).sum();
            if count > 0 {
                let classes = self.classes(x);
                zeros += if classes & 1 << Class::Zero as u8 != 0 { count } else { 0 };
                tally.add(x, classes, count);
            }
        }
        tally.finish(health, true, |class| {
            let found =
                bytes.iter().position(|&b| self.classes(table[usize::from(b)]) & 1 << class as u8 != 0);
            at + found.unwrap_or(0) as u64
        });
        zeros
    }

    /// The classes of a value, one bit each.
    fn classes(&self, x: f64) -> u8 {
        let bit = |class: Class, is: bool| u8::from(is) << class as u8;
        if !x.is_finite() {
            return bit(Class::Nan, x.is_nan())
                | bit(Class::PosInf, x == f64::INFINITY)
                | bit(Class::NegInf, x == f64::NEG_INFINITY);
        }
        bit(Class::Zero, x == 0.0)
            | bit(Class::Subnormal, x != 0.0 && x.abs() < self.limits.normal)
            | bit(Class::NearMax, x.abs() > self.limits.near_max)
            | bit(Class::Saturated, x <= self.ends.0 || x >= self.ends.1)
    }
}

/// Counts of one call.
struct Tally {
    counts: [u64; 7],
    min: f64,
    max: f64,
    least: f64,
    finite: u64,
    sum: f64,
    squares: f64,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            counts: [0; 7],
            min: f64::INFINITY,
            max: f64::NEG_INFINITY,
            least: f64::INFINITY,
            finite: 0,
            sum: 0.0,
            squares: 0.0,
        }
    }
}

impl Tally {
    fn add(&mut self, x: f64, classes: u8, count: u64) {
        if classes != 0 {
            for (i, total) in self.counts.iter_mut().enumerate() {
                *total += u64::from(classes >> i & 1) * count;
            }
        }
        if x.is_finite() {
            self.min = self.min.min(x);
            self.max = self.max.max(x);
            if x != 0.0 {
                self.least = self.least.min(x.abs());
            }
            self.finite += count;
            self.sum += x * count as f64;
            self.squares += x * x * count as f64;
        }
    }

    fn finish(self, health: &mut Health, is_summed: bool, place: impl Fn(Class) -> u64) {
        for class in Class::ALL {
            health.add(class, self.counts[class as usize], || place(class));
        }
        health.extend(self.min, self.max, self.least);
        if is_summed {
            health.add_sums(self.finite, (self.sum, self.squares));
        }
    }
}

fn float_bits(dtype: DType, limits: Limits) -> Option<FloatBits> {
    let (mantissa, infinite) = match dtype {
        DType::Float64 => (52, 0x7ff << 52),
        DType::Float32 => (23, 0xff << 23),
        DType::Float16 => (10, 0x7c00),
        DType::BFloat16 => (7, 0x7f80),
        DType::Float8E4M3Fn => (3, 0x7f),
        DType::Float8E5M2 => (2, 0x7c),
        _ => return None,
    };
    let mask = u64::MAX >> (64 - (dtype.size() * 8 - 1));
    // Values order like their bits.
    let (mut below, mut near) = (0, infinite);
    while near - below > 1 {
        let middle = below + (near - below) / 2;
        if value(dtype, middle) > limits.near_max {
            near = middle;
        } else {
            below = middle;
        }
    }
    Some(FloatBits { mask, normal: 1 << mantissa, near, infinite })
}

fn value(dtype: DType, bits: u64) -> f64 {
    let word = [bits];
    let mut out = [0.0];
    decode::to_f64(dtype, &bytemuck::cast_slice(&word)[..dtype.size()], &mut out);
    out[0]
}
