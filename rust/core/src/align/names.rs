//! Spellings of one node's name by several producers, brought to one form.

/// Parts of a module path that wrappers insert and that name nothing of the model.
const WRAPPERS: [&str; 5] =
    ["_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_fpw_module", "_forward_module"];

/// A node's name without what its producer adds, and the call number where that stood in the name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Normal {
    pub(super) name: String,
    pub(super) call: Option<u32>,
}

/// Brings a producer's spelling to the dotted path of the module, or leaves an ATB path as it is.
pub(super) fn normalise(node: &str, op_type: Option<&str>) -> Normal {
    if is_atb(node) {
        return Normal { name: node.to_owned(), call: None };
    }
    let mut parts: Vec<&str> = node.split('.').collect();
    let (call, backward) = strip_direction(&mut parts);
    if parts.len() > 1 && matches!(parts[0], "Module" | "Cell") {
        parts.remove(0);
        if parts.len() > 1 && parts.last().is_some_and(|last| is_class(last, op_type)) {
            parts.pop();
        }
    }
    if parts.first() == Some(&"root") {
        parts.remove(0);
    }
    parts.retain(|part| !WRAPPERS.contains(part));
    let mut name = parts.join(".");
    if backward {
        name.push_str("#backward");
    }
    Normal { name, call }
}

/// `3_Layer/1_Attention`: every part begins with its number.
pub(super) fn is_atb(node: &str) -> bool {
    let numbered = |part: &str| {
        part.split_once('_').is_some_and(|(id, name)| {
            !id.is_empty() && !name.is_empty() && id.bytes().all(|c| c.is_ascii_digit())
        })
    };
    !node.is_empty() && node.split('/').all(numbered)
}

/// Number and name of one part of an ATB path.
pub(super) fn atb_part(part: &str) -> Option<(u64, &str)> {
    let (id, name) = part.split_once('_')?;
    Some((id.parse().ok()?, name))
}

/// Takes `.forward.0` (modules) or `.0.forward` (functions) off; says whether it was the backward pass.
fn strip_direction(parts: &mut Vec<&str>) -> (Option<u32>, bool) {
    let direction = |part: &str| matches!(part, "forward" | "backward");
    let n = parts.len();
    if n < 3 {
        return (None, false);
    }
    let (place, number) = if direction(parts[n - 2]) {
        (n - 2, n - 1)
    } else if direction(parts[n - 1]) {
        (n - 1, n - 2)
    } else {
        return (None, false);
    };
    let Ok(call) = parts[number].parse() else { return (None, false) };
    let backward = parts[place] == "backward";
    parts.truncate(n - 2);
    (Some(call), backward)
}

fn is_class(part: &str, op_type: Option<&str>) -> bool {
    match op_type {
        Some(class) => class == part || class.rsplit('.').next() == Some(part),
        None => part.starts_with(|c: char| c.is_ascii_uppercase()),
    }
}

/// The words of a name that carry meaning: lower case, without numbers.
pub(super) fn words(name: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut last_lower = false;
    for c in name.chars() {
        if !c.is_alphabetic() || (c.is_uppercase() && last_lower) {
            flush(&mut word, &mut words);
        }
        if c.is_alphabetic() {
            word.extend(c.to_lowercase());
        }
        last_lower = c.is_lowercase();
    }
    flush(&mut word, &mut words);
    words
}

fn flush(word: &mut String, words: &mut Vec<String>) {
    if !word.is_empty() {
        words.push(std::mem::take(word));
    }
}

/// A slot as all producers can spell it: a tuple of one is its element.
pub(super) fn canonical_slot(slot: &str) -> &str {
    let slot = match slot {
        "" | "output" | "input" => "0",
        other => other,
    };
    slot.strip_suffix(".0").filter(|head| *head == "0").unwrap_or(slot)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(node: &str, op_type: Option<&str>) -> String {
        normalise(node, op_type).name
    }

    #[test]
    fn spellings_of_one_module_agree() {
        let expected = "model.layers.0.self_attn.q_proj";
        assert_eq!(name("root.model.layers.0.self_attn.q_proj", None), expected);
        assert_eq!(name("Module.model.layers.0.self_attn.q_proj.Linear.forward.0", None), expected);
        assert_eq!(name("Module.model.layers.0.self_attn.q_proj.Linear", Some("Linear")), expected);
        assert_eq!(name("model.layers.0.self_attn.q_proj", Some("Linear")), expected);
        assert_eq!(
            name("_orig_mod.model.layers.0._checkpoint_wrapped_module.self_attn.q_proj", None),
            expected
        );
        assert_eq!(name("root", None), "");
        assert_eq!(name("", Some("LlamaForCausalLM")), "");
    }

    #[test]
    fn calls_and_directions_are_read() {
        assert_eq!(normalise("Module.a.Linear.forward.3", None), Normal { name: "a".into(), call: Some(3) });
        assert_eq!(
            normalise("Functional.linear.12.forward", None),
            Normal { name: "Functional.linear".into(), call: Some(12) }
        );
        assert_eq!(name("Module.a.Linear.backward.0", None), "a#backward");
        assert_eq!(normalise("forward.net.0", None).call, None);
    }

    #[test]
    fn atb_paths_stay() {
        assert_eq!(name("3_Prefill_layer/1_Attention", None), "3_Prefill_layer/1_Attention");
        assert!(!is_atb("model.layers.0"));
        assert!(!is_atb(""));
        assert_eq!(atb_part("12_Linear_Op"), Some((12, "Linear_Op")));
    }

    #[test]
    fn words_split_at_case_and_signs() {
        assert_eq!(
            words("model.layers.0.self_attn.q_proj"),
            ["model", "layers", "self", "attn", "q", "proj"]
        );
        assert_eq!(words("3_SelfAttentionOperation"), ["self", "attention", "operation"]);
    }

    #[test]
    fn slots_of_one_tensor_agree() {
        for slot in ["", "output", "0", "0.0"] {
            assert_eq!(canonical_slot(slot), "0");
        }
        assert_eq!(canonical_slot("1"), "1");
        assert_eq!(canonical_slot("0.1"), "0.1");
    }
}
