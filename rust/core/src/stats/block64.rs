//! The same sums as [`super::block32`] in `f64`, for dtypes that need it and for blocks whose squares or
//! quotients would leave the range of `f32`.

use fearless_simd::{Level, dispatch, f64x8, prelude::*};

use super::block32::Sums;

const LANES: usize = 8;

type V<S> = f64x8<S>;

/// Sums over a pair of finite blocks; `d` holds the differences candidate − golden.
#[must_use]
pub fn sums(a: &[f64], b: &[f64], d: &[f64]) -> Sums {
    dispatch!(Level::new(), s => sums_in(s, a, b, d))
}

#[inline(always)]
fn sums_in<S: Simd>(s: S, a: &[f64], b: &[f64], d: &[f64]) -> Sums {
    let zero = V::splat(s, 0.0);
    let mut acc = [zero; 7];
    let (mut max_abs, mut max_rel) = (zero, zero);
    each(
        s,
        (a, b, d),
        #[inline(always)]
        |a, b, d| {
            let magnitude = d.abs();
            let quotient = a.simd_eq(zero).select(zero, magnitude / a.abs());
            let terms = [d * d, a * a, b * b, a * b, a * d, magnitude, quotient];
            for (acc, term) in acc.iter_mut().zip(terms) {
                *acc += term;
            }
            max_abs = magnitude.max(max_abs);
            max_rel = quotient.max(max_rel);
        },
    );
    let [dd, aa, bb, ab, ad, abs, rel] = acc;
    Sums {
        dd: dd.reduce_sum(),
        aa: aa.reduce_sum(),
        bb: bb.reduce_sum(),
        ab: ab.reduce_sum(),
        ad: ad.reduce_sum(),
        abs: abs.reduce_sum(),
        max_abs: max_abs.reduce_max(),
        rel: rel.reduce_sum(),
        max_rel: max_rel.reduce_max(),
    }
}

#[inline(always)]
fn each<S: Simd>(s: S, (a, b, d): (&[f64], &[f64], &[f64]), mut f: impl FnMut(V<S>, V<S>, V<S>)) {
    let (a_chunks, a_tail) = a.as_chunks::<LANES>();
    let (b_chunks, b_tail) = b.as_chunks::<LANES>();
    let (d_chunks, d_tail) = d.as_chunks::<LANES>();
    for ((a, b), d) in a_chunks.iter().zip(b_chunks).zip(d_chunks) {
        f(V::from_slice(s, a), V::from_slice(s, b), V::from_slice(s, d));
    }
    if !a_tail.is_empty() {
        f(padded(s, a_tail), padded(s, b_tail), padded(s, d_tail));
    }
}

#[inline(always)]
fn padded<S: Simd>(s: S, tail: &[f64]) -> V<S> {
    let mut lanes = [0.0; LANES];
    lanes[..tail.len()].copy_from_slice(tail);
    V::from_slice(s, &lanes)
}

/// Adds d² and a² of every element to its channel.
pub fn add_channels(a: &[f64], d: &[f64], channel_dd: &mut [f64], channel_aa: &mut [f64]) {
    for ((dd, aa), (&d, &a)) in channel_dd.iter_mut().zip(channel_aa).zip(d.iter().zip(a)) {
        *dd += d * d;
        *aa += a * a;
    }
}
