//! What every fuzz target does with its bytes: write them to a file, read it, and check what was promised.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use llmdbg_core::format::{self, atb_bin};
use llmdbg_core::io::map::Mapped;
use llmdbg_core::{Storage, Tensor};

static ROOT: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    let root = tempfile::tempdir().expect("a directory for the fuzzed file");
    // An execution directory of an ATB dump, so that aliases find something to lead to.
    let other = root.path().join("2/4_Layer/1_Linear/before");
    std::fs::create_dir_all(&other).expect("a directory");
    let record =
        b"$Object.Count=1\n$Object.Length=8\ndtype=0\ndims=2\n$Object.data=0,8\n$End=1\n\0\0\0\0\0\0\0\0";
    std::fs::write(other.join("intensor0_x.bin"), record).expect("a file");
    std::fs::create_dir_all(root.path().join("2/3_Layer/before")).expect("a directory");
    root
});

/// Reads bytes as a file of that name.
pub fn read(name: &str, data: &[u8]) {
    let path: PathBuf = ROOT.path().join("2/3_Layer/before").join(name);
    std::fs::write(&path, data).expect("room for the fuzzed file");
    if let Ok(contents) = format::contents(&path) {
        for entry in &contents.entries {
            let Ok(view) = &entry.view else { continue };
            let _ = entry.location(&path);
            if let Ok(tensor) = view.tensor() {
                assert_eq!(tensor.info, *view.info());
                check(&tensor);
            }
        }
        let names = contents.entries.iter().map(|entry| entry.key.len()).sum::<usize>();
        assert!(names <= 32 * data.len() + (1 << 17), "{names} bytes of names from {} bytes", data.len());
    }
    if Path::new(name).extension().is_some_and(|suffix| suffix == "bin") {
        let _ = atb_bin::header(&path);
    }
}

/// A tensor that exists is in bounds, and its file holds what it says.
fn check(tensor: &Tensor) {
    let size = tensor.info.dtype.size() as u64;
    let numel = tensor.info.checked_numel().expect("a size that does not overflow");
    numel.checked_mul(size).expect("a size in bytes that does not overflow");
    if let Storage::File { file, offset, len, .. } = &tensor.storage {
        assert!(offset + len <= file.metadata().expect("an open file").len());
    }
    let bytes = Mapped::new(&tensor.storage).expect("a range that can be mapped");
    if numel > 0 {
        let last = match &tensor.strides {
            None => numel - 1,
            Some(strides) => tensor.info.shape.iter().zip(strides).map(|(d, s)| (d - 1) * s).sum(),
        };
        let end = (tensor.first + last + 1) * size;
        std::hint::black_box(bytes[(tensor.first * size) as usize]);
        std::hint::black_box(bytes[end as usize - 1]);
    }
}

/// A zip with stored members.
#[must_use]
pub fn archive(members: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut bytes, mut directory) = (Vec::new(), Vec::new());
    for (name, data) in members {
        let header = bytes.len() as u32;
        let mut common = vec![20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        common.extend((data.len() as u32).to_le_bytes());
        common.extend((data.len() as u32).to_le_bytes());
        common.extend((name.len() as u16).to_le_bytes());
        common.extend([0, 0]);
        bytes.extend(b"PK\x03\x04");
        bytes.extend(&common);
        bytes.extend(name.as_bytes());
        bytes.extend(*data);
        directory.extend(b"PK\x01\x02\x14\x00");
        directory.extend(&common);
        directory.extend([0; 10]);
        directory.extend(header.to_le_bytes());
        directory.extend(name.as_bytes());
    }
    let start = bytes.len() as u32;
    bytes.extend(&directory);
    bytes.extend(b"PK\x05\x06\0\0\0\0");
    bytes.extend((members.len() as u16).to_le_bytes());
    bytes.extend((members.len() as u16).to_le_bytes());
    bytes.extend((directory.len() as u32).to_le_bytes());
    bytes.extend(start.to_le_bytes());
    bytes.extend([0, 0]);
    bytes
}
