//! From a block of bytes to what it adds to a tensor's health, by kind of dtype.

use std::borrow::Cow;

use super::float::{Ends, SPAN, Word};
use super::health::{Class, Extremes, Health};
use super::integer::{Ends as SmallEnds, Small};
use super::sums::{self, BLOCK, LARGEST, SMALLEST};
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
    /// Value of every byte of a one-byte dtype.
    table: Option<Box<[f64; 256]>>,
    /// Of how many blocks one is summed, about.
    every: u64,
    /// Extremes of other parts, which a block need not tell again.
    known: Extremes,
    /// Blocks until it is tried again to look at the largest magnitude only, which was not enough.
    unseen: u32,
    wide: Vec<f64>,
}

/// Blocks that are looked at in full after a glance at one was not enough.
const WARY: u32 = 4;

/// Of large tensors only a share of the blocks is summed: a mean needs no more, and extremes and counts, which do,
/// come from the bits at half the cost.
fn every(numbers: u64) -> u64 {
    match numbers {
        0..=0x10_0000 => 1,
        0x10_0001..=0x40_0000 => 4,
        0x40_0001..=0x100_0000 => 8,
        0x100_0001..=0x400_0000 => 16,
        0x400_0001..=0x800_0000 => 32,
        _ => 64,
    }
}

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
    /// The smallest that is not a number.
    nan: u64,
}

impl Scanner {
    /// For a dtype with numbers; of a complex one, its [`decode::component`].
    pub(super) fn new(dtype: DType, numbers: u64, known: Extremes) -> Self {
        let limits = decode::limits(dtype);
        let float = float_bits(dtype, limits);
        let ends = match dtype {
            DType::Int8 => (-127.0, 127.0),
            DType::UInt8 => (f64::NEG_INFINITY, 255.0),
            _ if dtype.kind() == Kind::Float => (-limits.near_max / 0.9, limits.near_max / 0.9),
            _ => (f64::NEG_INFINITY, f64::INFINITY),
        };
        let table = (dtype.size() == 1).then(|| {
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
            every: every(numbers),
            known,
            unseen: 0,
            wide: vec![0.0; BLOCK],
        }
    }

    /// Bytes that one call of [`Self::add`] takes at most: as many as stay in the first-level cache and lanes of their
    /// size can count, and any where a histogram does.
    pub(super) fn span(&self) -> usize {
        let block = BLOCK * self.dtype.size();
        if self.is_histogram() {
            usize::MAX
        } else if self.float.is_some() || self.dtype.size() == 1 {
            block.max(SPAN)
        } else {
            block
        }
    }

    /// Whether a histogram is the way: for bytes that are neither integers nor floats of a common kind.
    fn is_histogram(&self) -> bool {
        self.table.is_some() && self.float.is_none() && !matches!(self.dtype, DType::Int8 | DType::UInt8)
    }

    /// Whether the bits of one element are those of a zero.
    pub(super) fn mask(&self) -> u64 {
        self.float.map_or(u64::MAX, |float| float.mask)
    }

    /// Adds numbers; `at` is the place of the first. Returns how many are zero.
    pub(super) fn add(&mut self, bytes: &[u8], at: u64, health: &mut Health) -> u64 {
        health.numbers += (bytes.len() / self.dtype.size()) as u64;
        if let Some(bits) = self.float {
            return match self.dtype.size() {
                1 => self.add_float::<u8>(bits, bytes, at, health),
                2 => self.add_float::<u16>(bits, bytes, at, health),
                4 => self.add_float::<u32>(bits, bytes, at, health),
                _ => self.add_float::<u64>(bits, bytes, at, health),
            };
        }
        match self.dtype {
            DType::Int8 => self.add_small_ints(bytemuck::cast_slice::<u8, i8>(bytes), at, health),
            DType::UInt8 => self.add_small_ints(bytes, at, health),
            _ if self.is_histogram() => self.add_bytes(bytes, at, health),
            _ => self.add_values(bytes, at, health),
        }
    }

    fn add_float<W: Word>(&mut self, bits: FloatBits, bytes: &[u8], at: u64, health: &mut Health) -> u64 {
        let x: &[W] = bytemuck::cast_slice(bytes);
        let magnitude = |w: W| w.wide() & bits.mask;
        let find =
            |wanted: &dyn Fn(u64) -> bool| at + x.iter().position(|&w| wanted(w.wide())).unwrap_or(0) as u64;
        let find_finite =
            |wanted: &dyn Fn(u64) -> bool| find(&|w| w & bits.mask < bits.infinite && wanted(w & bits.mask));
        let mut finite = Cow::Borrowed(x);
        let mut ends = self.ends(bits, x, health);
        // How many places of `finite` hold the same finite number instead of one that is not, and which.
        let (mut stand_ins, mut stand_in) = (0, 0);
        if ends.most >= bits.infinite {
            let (positive, negative) = (bits.infinite, bits.infinite | (bits.mask + 1));
            stand_ins = W::count_from(x, bits.infinite);
            let nans = if ends.most < bits.nan { 0 } else { W::count_from(x, bits.nan) };
            let infinities = stand_ins - nans;
            let below_zero =
                if infinities > 0 { x.iter().filter(|w| w.wide() == negative).count() as u64 } else { 0 };
            health.add(Class::Nan, nans, || find(&|w| w & bits.mask >= bits.nan));
            health.add(Class::NegInf, below_zero, || find(&|w| w == negative));
            health.add(Class::PosInf, infinities - below_zero, || find(&|w| w == positive));
            let Some(&first) = x.iter().find(|&&w| magnitude(w) < bits.infinite) else { return 0 };
            stand_in = magnitude(first);
            W::below(x, bits.infinite, first, finite.to_mut());
            ends = W::ends(&finite, bits.normal);
        }
        let stand_ins_from = |from: u64| if stand_in >= from { stand_ins } else { 0 };
        let count = |from: u64| W::count_from(&finite, from) - stand_ins_from(from);
        let zeros = ends.zeros - if stand_in == 0 { stand_ins } else { 0 };
        health.add(Class::Zero, zeros, || find_finite(&|m| m == 0));
        let mut least = f64::INFINITY;
        if ends.least > 0 {
            least = self.value(ends.least);
            if ends.least < bits.normal {
                let normal =
                    ends.normal.map_or_else(|| count(bits.normal), |n| n - stand_ins_from(bits.normal));
                let subnormal = x.len() as u64 - stand_ins - zeros - normal;
                health.add(Class::Subnormal, subnormal, || find_finite(&|m| m != 0 && m < bits.normal));
            }
            if ends.most >= bits.near {
                health.add(Class::NearMax, count(bits.near), || find_finite(&|m| m >= bits.near));
                let largest = bits.infinite - 1;
                health.add(Class::Saturated, count(largest), || find_finite(&|m| m == largest));
            }
        }
        health.extend(self.value(ends.low), self.value(ends.high), least);
        for (i, (x, finite)) in x.chunks(BLOCK).zip(finite.chunks(BLOCK)).enumerate() {
            if !self.is_summed(at + (i * BLOCK) as u64) {
                continue;
            }
            if stand_ins == 0 {
                let sums = self.sums(bytemuck::cast_slice(finite), ends.least, ends.most);
                health.add_sums(x.len() as u64, sums);
            } else {
                let mut zeroed = vec![W::zeroed(); x.len()];
                W::below(x, bits.infinite, W::zeroed(), &mut zeroed);
                let summed = x.iter().filter(|&&w| magnitude(w) < bits.infinite).count() as u64;
                let sums = self.sums(bytemuck::cast_slice(&zeroed), ends.least, ends.most);
                health.add_sums(summed, sums);
            }
        }
        zeros
    }

    /// Extremes of a block; of words of one byte only what can change the extremes that are known, as nearly every
    /// block of a large tensor changes none.
    fn ends<W: Word>(&mut self, bits: FloatBits, x: &[W], health: &Health) -> Ends {
        let known = self.known.with(health);
        if size_of::<W>() == 1 && known.least <= self.value(1) && self.may_glance() {
            let ends = W::glance(x, bits.normal);
            if ends.most < bits.infinite && self.value(ends.most) <= known.max.min(-known.min) {
                return ends;
            }
            self.unseen = WARY;
        }
        W::ends(x, bits.normal)
    }

    fn may_glance(&mut self) -> bool {
        let may = self.unseen == 0;
        self.unseen = self.unseen.saturating_sub(1);
        may
    }

    /// Whether the block at a place is one of those that are summed: a share of any blocks at equal distances, so
    /// that a matrix is not summed in some of its columns only.
    fn is_summed(&self, at: u64) -> bool {
        let fibonacci = 0x9e37_79b9_7f4a_7c15;
        (at / BLOCK as u64).wrapping_mul(fibonacci) <= u64::MAX / self.every
    }

    /// Numbers of one byte that are integers.
    fn add_small_ints<T: Small>(&mut self, x: &[T], at: u64, health: &mut Health) -> u64 {
        let ends = self.small_ends(x, health);
        let find = |class: Class| {
            let found = x.iter().position(|&x| self.classes(f64::from(x.into())) & 1 << class as u8 != 0);
            at + found.unwrap_or(0) as u64
        };
        health.add(Class::Zero, ends.zeros, || find(Class::Zero));
        health.add(Class::Saturated, ends.last, || find(Class::Saturated));
        let least = if ends.least == 0 { f64::INFINITY } else { f64::from(ends.least) };
        health.extend(f64::from(ends.low), f64::from(ends.high), least);
        for (i, x) in x.chunks(BLOCK).enumerate() {
            if self.is_summed(at + (i * BLOCK) as u64) {
                let (sum, squares) = T::sums(x);
                health.add_sums(x.len() as u64, (f64::from(sum), f64::from(squares)));
            }
        }
        ends.zeros
    }

    /// As [`Self::ends`].
    fn small_ends<T: Small>(&mut self, x: &[T], health: &Health) -> SmallEnds {
        let known = self.known.with(health);
        if known.least <= 1.0 && self.may_glance() {
            let ends = T::glance(x);
            let lowest = if T::MIN < 0 { -f64::from(ends.most) } else { 0.0 };
            if f64::from(ends.most) <= known.max && lowest >= known.min {
                return ends;
            }
            self.unseen = WARY;
        }
        T::ends(x)
    }

    /// Sum and sum of squares of a block of finite numbers, whose nonzero magnitudes lie between two given as bits.
    fn sums(&mut self, bytes: &[u8], least: u64, most: u64) -> (f64, f64) {
        let narrow = |shift: u32| most == 0 || least << shift >= SMALLEST && most << shift <= LARGEST;
        match self.dtype {
            DType::Float32 if narrow(0) => sums::of_f32(bytemuck::cast_slice(bytes)),
            DType::BFloat16 if narrow(16) => sums::of_bf16(bytemuck::cast_slice(bytes)),
            DType::Float16 => sums::of_f16(bytemuck::cast_slice(bytes)),
            DType::Float8E4M3Fn => sums::of_e4m3(bytemuck::cast_slice(bytes)),
            DType::Float8E5M2 => sums::of_e5m2(bytemuck::cast_slice(bytes)),
            _ => {
                let wide = &mut self.wide[..bytes.len() / self.dtype.size()];
                decode::to_f64(self.dtype, bytes, wide);
                sums::of_f64(wide)
            }
        }
    }

    /// The value of some bits.
    fn value(&self, bits: u64) -> f64 {
        match (&self.table, self.dtype) {
            (Some(table), _) => table[bits as usize],
            (None, DType::Float16) => half::f16::from_bits(bits as u16).to_f64(),
            (None, DType::BFloat16) => half::bf16::from_bits(bits as u16).to_f64(),
            (None, DType::Float32) => f32::from_bits(bits as u32).into(),
            _ => f64::from_bits(bits),
        }
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
    // Only this format has no infinity.
    let nan = if dtype == DType::Float8E4M3Fn { infinite } else { infinite + 1 };
    Some(FloatBits { mask, normal: 1 << mantissa, near, infinite, nan })
}

fn value(dtype: DType, bits: u64) -> f64 {
    let word = [bits];
    let mut out = [0.0];
    decode::to_f64(dtype, &bytemuck::cast_slice(&word)[..dtype.size()], &mut out);
    out[0]
}
