//! The same sums as [`super::block32`] in `f64`, for dtypes that need it and for blocks whose squares or
//! quotients would leave the range of `f32`.

use multiversion::multiversion;

use super::block32::Sums;

const LANES: usize = 8;

/// Sums over a pair of finite blocks; `d` holds the differences candidate − golden.
///
/// With `channels`, Σ d² and Σ a² of every column are added to its two slices.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2"))]
pub fn sums(a: &[f64], b: &[f64], d: &[f64], channels: Option<(&mut [f64], &mut [f64])>) -> Sums {
    let mut acc = [[0f64; LANES]; 8];
    let (a_chunks, a_tail) = a.as_chunks::<LANES>();
    let (b_chunks, b_tail) = b.as_chunks::<LANES>();
    let (d_chunks, d_tail) = d.as_chunks::<LANES>();
    for ((a, b), d) in a_chunks.iter().zip(b_chunks).zip(d_chunks) {
        for l in 0..LANES {
            step(&mut acc, l, a[l], b[l], d[l]);
        }
    }
    for (l, ((&a, &b), &d)) in a_tail.iter().zip(b_tail).zip(d_tail).enumerate() {
        step(&mut acc, l, a, b, d);
    }
    if let Some((dd, aa)) = channels {
        for ((dd, aa), (&d, &a)) in dd.iter_mut().zip(aa).zip(d.iter().zip(a)) {
            *dd += d * d;
            *aa += a * a;
        }
    }
    Sums {
        dd: fold(acc[0], |x, y| x + y),
        aa: fold(acc[1], |x, y| x + y),
        bb: fold(acc[2], |x, y| x + y),
        abs: fold(acc[3], |x, y| x + y),
        max_abs: fold(acc[4], greater),
        rel: fold(acc[5], |x, y| x + y),
        max_rel: fold(acc[6], greater),
        ab: fold(acc[7], |x, y| x + y),
    }
}

#[inline(always)]
fn step(acc: &mut [[f64; LANES]; 8], l: usize, a: f64, b: f64, d: f64) {
    let magnitude = d.abs();
    let quotient = magnitude / a.abs();
    let rel = if a == 0.0 { 0.0 } else { quotient };
    acc[0][l] += d * d;
    acc[1][l] += a * a;
    acc[2][l] += b * b;
    acc[3][l] += magnitude;
    acc[4][l] = greater(magnitude, acc[4][l]);
    acc[5][l] += rel;
    acc[6][l] = greater(rel, acc[6][l]);
    acc[7][l] += a * b;
}

#[inline(always)]
fn greater(x: f64, y: f64) -> f64 {
    if x > y { x } else { y }
}

#[inline(always)]
fn fold(mut acc: [f64; LANES], join: fn(f64, f64) -> f64) -> f64 {
    let mut width = LANES;
    while width > 1 {
        width /= 2;
        for l in 0..width {
            acc[l] = join(acc[l], acc[l + width]);
        }
    }
    acc[0]
}
