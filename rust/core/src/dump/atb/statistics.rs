//! `statistic.csv` of era E: one row per tensor of an execution, with or without its `.bin`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::names::{is_op, parse_tensor};
use super::place::is_phase;
use crate::dump::{Location, Phase, Problems, ProducerStats, Role, TensorRecord, json, table};
use crate::graph::atb_json::split_dir;
use crate::{DType, TensorInfo};

pub(super) const FILE: &str = "statistic.csv";

/// Adds the rows to the records from `first` on; a row without a file becomes a record without bytes.
/// Rows of other nodes than those at or below `wanted` are passed over.
pub(super) fn read(
    path: &Path,
    wanted: &str,
    records: &mut Vec<TensorRecord>,
    first: usize,
    problems: &mut Problems,
) {
    let text = match fs::read(path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => return problems.add(format!("cannot read: {error}: {}", path.display())),
    };
    let key = |r: &TensorRecord| (r.node.clone(), r.role, r.slot.clone(), r.phase);
    let mut places: BTreeMap<_, usize> = (first..records.len()).map(|i| (key(&records[i]), i)).collect();
    // Several threads of the writer may each have begun the file with the header.
    for line in text.lines().filter(|l| !l.trim().is_empty() && !l.starts_with("Device ")) {
        let Some(row) = parse(line) else {
            problems.count("not understood in statistic.csv", "row", format!("{line}: {}", path.display()));
            continue;
        };
        let below = row
            .node
            .strip_prefix(wanted)
            .is_some_and(|r| r.is_empty() || wanted.is_empty() || r.starts_with('/'));
        if !below {
            continue;
        }
        if let Some(&i) = places.get(&key(&row)) {
            records[i].info = records[i].info.take().or(row.info);
            records[i].stats = row.stats;
        } else {
            places.insert(key(&row), records.len());
            records.push(row);
        }
    }
}

fn parse(line: &str) -> Option<TensorRecord> {
    let cells = table::cells(line);
    // Complex numbers, `(re,im)`, are one cell each.
    let [_, _, names, op_type, ids, side, index, dtype, format, shape, max, min, mean, norm, path] =
        cells.as_slice()
    else {
        return None;
    };
    let (role, phase) = match side.as_str() {
        "input" => (Role::Input, Phase::Before),
        "output" => (Role::Output, Phase::After),
        _ => return None,
    };
    let names: Vec<&str> = names.split('/').collect();
    let ids: Vec<&str> = ids.split('_').collect();
    let node = if names.len() == ids.len() {
        let parts: Vec<String> = ids.iter().zip(&names).map(|(id, name)| format!("{id}_{name}")).collect();
        parts.join("/")
    } else {
        // A name with a slash in it: the path of the file still has the directories.
        node_of_path(path)?
    };
    let slot = index.split('_').next().unwrap_or(index);
    let shape: Option<Vec<u64>> =
        if shape.is_empty() { Some(Vec::new()) } else { shape.split('x').map(|d| d.parse().ok()).collect() };
    let info = dtype_named(dtype).zip(shape).map(|(dtype, shape)| TensorInfo {
        acl_format: format_number(format),
        ..TensorInfo::new(dtype, shape)
    });
    let stats = ProducerStats {
        max: json::parse_number(max),
        min: json::parse_number(min),
        mean: json::parse_number(mean),
        norm: json::parse_number(norm),
        ..ProducerStats::default()
    };
    Some(TensorRecord {
        phase: Some(phase),
        op_type: Some(op_type.clone()).filter(|t| !t.is_empty()),
        info,
        stats: (stats != ProducerStats::default()).then_some(stats),
        ..TensorRecord::new(node, role, slot, Location::Nowhere)
    })
}

/// The operations' directories in the path of a tensor file.
fn node_of_path(path: &str) -> Option<String> {
    let parts: Vec<&str> = path.split('/').collect();
    parse_tensor(parts.last()?)?;
    let end = parts.len().checked_sub(2).filter(|&i| is_phase(parts[i]))?;
    let start = parts[..end].iter().rposition(|part| !is_op(part))? + 1;
    (start < end && split_dir(parts[start]).is_some()).then(|| parts[start..end].join("/"))
}

fn dtype_named(name: &str) -> Option<DType> {
    let plain = name.trim().to_ascii_lowercase();
    let plain = plain.strip_prefix("acl_").unwrap_or(&plain);
    match plain {
        "bf16" => Some(DType::BFloat16),
        "dt_undefined" | "undefined" => None,
        "complex32" => Some(DType::Complex32),
        other => DType::from_name(other),
    }
}

/// `aclFormat` numbers by the names that writers print.
fn format_number(name: &str) -> Option<i32> {
    let number = match name.trim().to_ascii_lowercase().trim_start_matches("acl_format_") {
        "nchw" => 0,
        "nhwc" => 1,
        "nd" => 2,
        "nc1hwc0" => 3,
        "fractal_z" => 4,
        "nc1hwc0_c04" => 12,
        "hwcn" => 16,
        "ndhwc" => 27,
        "fractal_nz" => 29,
        "ncdhw" => 30,
        "ndc1hwc0" => 32,
        "fractal_z_3d" => 33,
        "nc" => 35,
        "ncl" => 47,
        "fractal_nz_c0_16" => 50,
        "fractal_nz_c0_32" => 51,
        _ => return None,
    };
    Some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_tells_place_type_and_statistics() {
        let line =
            "0_77,2,Layer/Linear,Linear,3_1,output,0_y,float16,fractal_nz,2x3,6.000000,-1.5,N/A,nan,/d/x.bin";
        let row = parse(line).unwrap();
        assert_eq!((row.node.as_str(), row.role, row.slot.as_str()), ("3_Layer/1_Linear", Role::Output, "0"));
        assert_eq!(
            row.info,
            Some(TensorInfo { dtype: DType::Float16, shape: vec![2, 3], acl_format: Some(29) })
        );
        let stats = row.stats.unwrap();
        assert_eq!((stats.max, stats.min, stats.mean), (Some(6.0), Some(-1.5), None));
        assert!(stats.norm.unwrap().is_nan());
    }

    #[test]
    fn complex_cells_and_odd_names_are_read() {
        let line = "0_77,0,A,A,5,input,0,complex64,nd,4,(1.0,2.0),(0.0,-1.0),(0.5,0.5),(3.0,0.0),N/A";
        assert_eq!(parse(line).unwrap().node, "5_A");
        assert_eq!(parse(line).unwrap().stats, None);
        let path = "/r/data/0_77/0/5_a/1_b/before/intensor0.bin";
        let line = format!("0_77,0,x/y/b,b,5_1,input,0,float,nd,,1,1,1,1,{path}");
        let row = parse(&line).unwrap();
        assert_eq!((row.node.as_str(), row.info.unwrap().shape), ("5_a/1_b", vec![]));
        assert!(parse("0_77,0,half a line").is_none());
    }
}
