//! Names of directories and files below a process's directory.

use std::cmp::Ordering;

use crate::dump::{Role, TensorRecord};
use crate::graph::atb_json::split_dir;

/// `0_1234`, `-1_1234`: device and pid.
pub(super) fn parse_process(name: &str) -> Option<(&str, &str)> {
    let (device, pid) = name.rsplit_once('_')?;
    let is_number = crate::dump::ranks::is_number;
    (is_number(device.strip_prefix('-').unwrap_or(device)) && is_number(pid)).then_some((device, pid))
}

/// Whether a directory's name is that of an operation: a number and a name. `0_1234` is a process.
pub(super) fn is_op(name: &str) -> bool {
    split_dir(name).is_some_and(|(_, text)| !crate::dump::ranks::is_number(text))
}

/// `intensor3.bin`, `outtensor0_y.bin`: role and number. The parameter's name behind it is not part of the place.
pub(super) fn parse_tensor(name: &str) -> Option<(Role, &str)> {
    let stem = name.strip_suffix(".bin")?;
    let (role, rest) =
        [("in", Role::Input), ("out", Role::Output)].into_iter().find_map(|(word, role)| {
            let rest = stem.strip_prefix(word)?;
            Some((role, rest.strip_prefix("tensor").or_else(|| rest.strip_prefix("Tensor"))?))
        })?;
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    let (number, parameter) = rest.split_at(digits);
    (digits > 0 && (parameter.is_empty() || parameter.starts_with('_'))).then_some((role, number))
}

/// Order of completion: by numbers, an operation after its children.
pub(super) fn completion_cmp(a: &str, b: &str) -> Ordering {
    let mut x = a.split('/');
    let mut y = b.split('/');
    loop {
        match (x.next(), y.next()) {
            (None, None) => return Ordering::Equal,
            (None, Some(_)) => return Ordering::Greater,
            (Some(_), None) => return Ordering::Less,
            (Some(p), Some(q)) => {
                let order = crate::dump::natural_cmp(p, q);
                if order != Ordering::Equal {
                    return order;
                }
            }
        }
    }
}

/// Whether execution directories were renumbered by the writer (era C): 0 is the prefill alone and n > 0 the n-th
/// decode, where raw numbers put the first decode beside the prefill into 0. `None` when the dump does not tell.
pub(super) fn is_renumbered(records: &[TensorRecord]) -> Option<bool> {
    let top = |record: &TensorRecord| {
        let first = record.node.split('/').next().unwrap_or_default();
        split_dir(first).map(|(number, name)| (number, name.starts_with("LmHead")))
    };
    let prefill_end = records.iter().filter_map(top).filter(|t| t.1).map(|t| t.0).min()?;
    let (mut prefill, mut decode) = ([false; 2], [false; 2]);
    for record in records {
        let (Some(step), Some((number, _))) = (record.step, top(record)) else { continue };
        let phase = if number <= prefill_end { &mut prefill } else { &mut decode };
        phase[usize::from(step > 0)] = true;
    }
    match (prefill, decode) {
        ([true, false], [false, true]) => Some(true),
        // Both phases in directory 0, one model for both, or several prefills.
        (_, [true, _]) | ([_, true], _) => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dump::Location;

    #[test]
    fn processes_and_operations_differ() {
        assert_eq!(parse_process("0_1234"), Some(("0", "1234")));
        assert_eq!(parse_process("-1_77"), Some(("-1", "77")));
        assert_eq!(parse_process("1_A"), None);
        assert_eq!(parse_process("npu0_77"), None);
        assert!(is_op("11_B") && is_op("5_Prefill_layer") && is_op("0_2D"));
        assert!(!is_op("0_1234") && !is_op("after") && !is_op("_x") && !is_op("-1_x"));
    }

    #[test]
    fn files_tell_role_and_number() {
        assert_eq!(parse_tensor("intensor0_x_y.bin"), Some((Role::Input, "0")));
        assert_eq!(parse_tensor("outTensor12.bin"), Some((Role::Output, "12")));
        assert_eq!(parse_tensor("outtensor.bin"), None);
        assert_eq!(parse_tensor("intensor0x.bin"), None);
        assert_eq!(parse_tensor("kernel_tilingdata.bin"), None);
    }

    #[test]
    fn children_complete_before_their_parent() {
        let mut nodes = vec!["2_B", "10_C", "2_B/10_Y", "2_B/9_X/0_Z", "2_B/9_X", "0_A"];
        nodes.sort_by(|a, b| completion_cmp(a, b));
        assert_eq!(nodes, ["0_A", "2_B/9_X/0_Z", "2_B/9_X", "2_B/10_Y", "2_B", "10_C"]);
    }

    #[test]
    fn renumbering_shows_in_which_phase_lies_where() {
        let records = |steps: &[(u64, &str)]| -> Vec<TensorRecord> {
            let record = |&(step, node): &(u64, &str)| TensorRecord {
                step: Some(step),
                ..TensorRecord::new(node, Role::Output, "0", Location::Nowhere)
            };
            steps.iter().map(record).collect()
        };
        let raw = [(0, "0_Layer"), (0, "1_LmHead"), (0, "2_Layer"), (0, "3_LmHead"), (1, "2_Layer")];
        assert_eq!(is_renumbered(&records(&raw)), Some(false));
        let renumbered = [(0, "0_Layer"), (0, "1_LmHead"), (1, "2_Layer"), (1, "3_LmHead")];
        assert_eq!(is_renumbered(&records(&renumbered)), Some(true));
        let one_model = [(0, "0_Layer"), (0, "1_LmHead"), (1, "0_Layer")];
        assert_eq!(is_renumbered(&records(&one_model)), Some(false));
        assert_eq!(is_renumbered(&records(&raw[..2])), None);
        assert_eq!(is_renumbered(&records(&[(0, "0_Layer")])), None);
    }
}
