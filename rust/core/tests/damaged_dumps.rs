//! Damaged description files: every layout answers with an error or problems, never with a panic.

use std::fs;
use std::path::Path;

use llmdbg_core::dump;
use proptest::prelude::*;

const MANIFEST: &str = r#"{"format":"llmdbg.dump/1","about":{"model":"M"},"rank":0,"modules":[{"name":"","type":"M",
"parent":null},{"name":"a","type":"Linear","parent":"","params":{"eps":1e-5}}],"records":[{"step":0,"node":"a","call":0,
"role":"input","slot":"0","order":1,"dtype":"float32","shape":[2,3],"file":"data/a.safetensors","key":"t"},{"step":0,
"node":"a","role":"output","slot":"0","value":3}],"weights":[]}"#;
const JOURNAL: &str = r#"{"format":"llmdbg.dump/1","rank":0,"modules":[]}
{"step":0,"node":"a","role":"output","slot":"0","order":1,"file":"data/a.safetensors","key":"t"}
"#;
const TREE: &str = r#"{"name":"root","type":"M","children":[{"name":"root.a","type":"L","children":[]}]}"#;
const STATISTICS: &str = "NodeName,NodeType,InputOutput,Index,DataType,Shape,Max,Min,Mean,L2Norm
root.a,L,output,0,torch.float16,\"(2, 3)\",1,2,3,4
";
const MODEL: &str = r#"{"modelName":"M","nodes":[{"opName":"A_0","opType":"A","inTensors":["x"],"outTensors":["y"],
"nodes":[{"opName":"B_0_0","opType":"B","param":{"k":1},"inTensors":["x"],"outTensors":["y"]}]},{"opName":"C_1","opType":
"C","inTensors":["y"],"outTensors":["z"]}]}"#;
const LAYER: &str =
    r#"{"opName":"A_0","opType":"A","inTensors":["A_0_input_0"],"nodes":[{"opName":"B_0_0"}]}"#;
const ROWS: &str =
    "Device and PID,Execution Count,Op Name,Op Type,Op Id,Input/Output,Index,Dtype,Format,Shape,\
Max,Min,Mean,Norm,Tensor Path
0_7,0,A/B,B,0_0,output,0,float16,nd,2x3,1.0,0.0,0.5,(1,2),/r/data/0_7/0/0_A/0_B/after/outtensor0.bin
";
const DUMP: &str = r#"{"task":"tensor","data":{"Module.a.L.forward.0":{"input_args":[{"type":"torch.Tensor","dtype":
"torch.float32","shape":[2],"Max":NaN,"Min":1,"data_name":"a.pt"},null,{"type":"int","value":1}],"input_kwargs":{"k":
[{"type":"torch.Size","value":[1]}]},"output":[]},"Torch.add.0.forward":{"input":[]}}}"#;
const CONSTRUCT: &str = r#"{"Torch.add.0.forward":"Module.a.L.forward.0","Module.a.L.forward.0":null}"#;
const STACK: &str = r#"{"0":[["Torch.add.0.forward"],["f","g"]]}"#;
const METADATA: &str = r#"{"1":{"0":["g.pth","m.bin"]},"2":{"1":["g.pth","m.bin"]}}"#;
const BIN: &str = "$Version=1.0\n$Object.Count=0\n$Object.Length=0\nformat=2\ndtype=1\ndims=2,3\n$End=1\n";

/// A small dump: the path to open, then its files.
type Seed = (&'static str, &'static [(&'static str, &'static str)]);
const SEEDS: [Seed; 6] = [
    (".", &[("manifest.json", MANIFEST)]),
    (".", &[("journal.jsonl", JOURNAL)]),
    (
        "torch_tensors",
        &[
            ("torch_tensors/cpu_7/model_tree.json", TREE),
            ("torch_tensors/cpu_7/0/root.a/statistics.csv", STATISTICS),
            ("torch_tensors/cpu_7/0/root.a/output.pth", ""),
        ],
    ),
    (
        ".",
        &[
            ("atb_dump_data/info/model/0_7/M.json", MODEL),
            ("atb_dump_data/info/layer/0_7/A_0.json", LAYER),
            ("atb_dump_data/data/0_7/0/statistic.csv", ROWS),
            ("atb_dump_data/data/0_7/0/0_A/0_B/after/outtensor0.bin", BIN),
            ("atb_dump_data/data/0_7/0/0_A/op_param.json", "{\"a\":1}"),
        ],
    ),
    (
        ".",
        &[
            ("step0/rank0/dump.json", DUMP),
            ("step0/rank0/construct.json", CONSTRUCT),
            ("step0/rank0/stack.json", STACK),
        ],
    ),
    (
        ".",
        &[
            ("ait_dump/7_0/golden_tensor/metadata.json", METADATA),
            ("ait_dump/7_0/golden_tensor/0/1_tensor.pth", ""),
        ],
    ),
];

fn write(root: &Path, name: &str, content: &[u8]) {
    let path = root.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

/// Opens a dump and looks at everything it offers; how many tensors it has.
fn exercise(path: &Path) -> usize {
    let Ok(mut dump) = dump::open(path) else { return 0 };
    dump.describe();
    for i in 0..dump.records.len() {
        let _ = dump.tensor(i);
    }
    let _ = dump::manual::candidate(&dump);
    if let Some(graph) = &dump.graph {
        for (i, node) in graph.nodes.iter().enumerate() {
            assert!(node.parent.is_none_or(|parent| (parent as usize) < i), "a parent after its child");
            let known = |&t: &u32| (t as usize) < graph.tensors.len();
            assert!(node.inputs.iter().chain(&node.outputs).all(known), "a tensor that is not there");
        }
    }
    assert!(dump.values_json().is_array());
    dump.records.len()
}

#[test]
fn the_seeds_themselves_are_dumps() {
    for (open, files) in &SEEDS {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in *files {
            write(dir.path(), name, text.as_bytes());
        }
        assert!(exercise(&dir.path().join(open)) > 0, "{}", files[0].0);
    }
}

/// One change of a file.
#[derive(Clone, Debug)]
enum Edit {
    Set(u8),
    Cut(u8),
    Insert(&'static str),
    Truncate,
}

const WORDS: [&str; 12] =
    ["null", "-1", "1e400", "99999999999999999999", "[]", "{}", "\"\"", "../", "NaN", "_", "\u{fffd}", ","];

fn edits() -> impl Strategy<Value = Vec<(prop::sample::Index, Edit)>> {
    let edit = prop_oneof![
        any::<u8>().prop_map(Edit::Set),
        (1..20u8).prop_map(Edit::Cut),
        prop::sample::select(&WORDS[..]).prop_map(Edit::Insert),
        Just(Edit::Truncate),
    ];
    prop::collection::vec((any::<prop::sample::Index>(), edit), 1..6)
}

fn apply(edit: &Edit, at: prop::sample::Index, bytes: &mut Vec<u8>) {
    if bytes.is_empty() {
        return;
    }
    let at = at.index(bytes.len());
    match edit {
        Edit::Set(byte) => bytes[at] = *byte,
        Edit::Cut(len) => drop(bytes.drain(at..(at + usize::from(*len)).min(bytes.len()))),
        Edit::Insert(text) => drop(bytes.splice(at..at, text.bytes())),
        Edit::Truncate => bytes.truncate(at),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn damage_never_panics(seed in 0..SEEDS.len(), file in any::<prop::sample::Index>(), edits in edits()) {
        let (open, files) = SEEDS[seed];
        let dir = tempfile::tempdir().unwrap();
        let damaged = file.index(files.len());
        for (i, (name, text)) in files.iter().enumerate() {
            let mut bytes = text.as_bytes().to_vec();
            if i == damaged {
                for (at, edit) in &edits {
                    apply(edit, *at, &mut bytes);
                }
            }
            write(dir.path(), name, &bytes);
        }
        exercise(&dir.path().join(open));
    }
}
