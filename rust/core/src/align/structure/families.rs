//! What kind of operation a name stands for: one table for every stack's spelling.

/// Kinds of operations, as far as alignment tells them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Family {
    Linear,
    Norm,
    /// A residual sum and the norm after it in one operation.
    AddNorm,
    Rope,
    Attention,
    /// An activation of one argument.
    Activation,
    /// An activation times the other half of its input.
    Gated,
    Embedding,
    Add,
    Multiply,
    Split,
    /// Values pass through: a cast, a copy, another layout.
    Layout,
    Collective,
    Cache,
    Unknown,
}

use Family::{
    Activation, Add, AddNorm, Attention, Cache, Collective, Embedding, Gated, Layout, Linear, Multiply, Norm,
    Rope, Split, Unknown,
};

/// Fragments of lower-case names without signs; the first that occurs decides.
const SPELLINGS: [(&str, Family); 57] = [
    ("addrmsnorm", AddNorm),
    ("addlayernorm", AddNorm),
    ("addnorm", AddNorm),
    ("normwithresidual", AddNorm),
    ("fusedaddrms", AddNorm),
    ("reshapeandcache", Cache),
    ("kvcache", Cache),
    ("reducescatter", Collective),
    ("allreduce", Collective),
    ("allgather", Collective),
    ("rmsnorm", Norm),
    ("layernorm", Norm),
    ("groupnorm", Norm),
    ("rotary", Rope),
    ("rope", Rope),
    ("pagedattention", Attention),
    ("flashattention", Attention),
    ("selfattention", Attention),
    ("coreattention", Attention),
    ("scaleddotproduct", Attention),
    ("sdpa", Attention),
    ("attention", Attention),
    ("wordembedding", Embedding),
    ("embedding", Embedding),
    ("embed", Embedding),
    ("gather", Embedding),
    ("swiglu", Gated),
    ("geglu", Gated),
    ("siluandmul", Gated),
    ("geluandmul", Gated),
    ("lmhead", Linear),
    ("linear", Linear),
    ("matmul", Linear),
    ("addmm", Linear),
    ("gemm", Linear),
    ("conv1d", Linear),
    ("einsum", Linear),
    ("silu", Activation),
    ("gelu", Activation),
    ("relu", Activation),
    ("swish", Activation),
    ("sigmoid", Activation),
    ("activation", Activation),
    ("split", Split),
    ("chunk", Split),
    ("slice", Split),
    ("concat", Split),
    ("transdata", Layout),
    ("transpose", Layout),
    ("reshape", Layout),
    ("contiguous", Layout),
    ("identity", Layout),
    ("dropout", Layout),
    ("cast", Layout),
    ("norm", Norm),
    ("mul", Multiply),
    ("add", Add),
];

/// `elewiseType` of ATB's element-wise operation.
const ELEWISE_ADD: u64 = 8;
const ELEWISE_MUL: u64 = 9;
/// `activationType` of ATB's activation.
const ACTIVATION_SWIGLU: u64 = 6;

/// The family of an operation type, with its parameters where the type alone does not tell.
pub(super) fn of(op_type: &str, params: &serde_json::Value) -> Family {
    let name: String = op_type.chars().filter(char::is_ascii_alphanumeric).collect();
    // ATB ends every name so, and "linearoperation" has a "rope" in it.
    let name = name.to_ascii_lowercase().replace("operation", "");
    let number = |key: &str| params.get(key).and_then(serde_json::Value::as_u64);
    match (number("elewiseType"), number("activationType")) {
        (Some(ELEWISE_ADD), _) => return Add,
        (Some(ELEWISE_MUL), _) => return Multiply,
        (Some(_), _) => return Unknown,
        (_, Some(ACTIVATION_SWIGLU)) => return Gated,
        (_, Some(_)) => return Activation,
        _ => {}
    }
    SPELLINGS.iter().find(|(fragment, _)| name.contains(fragment)).map_or(Unknown, |&(_, family)| family)
}

/// How well two families go together, −1 to 1; 0 where it does not tell.
pub(super) fn agreement(a: Family, b: Family) -> f64 {
    match (a, b) {
        (Unknown, _) | (_, Unknown) => 0.0,
        _ if a == b => 1.0,
        (Norm | Add, AddNorm) | (AddNorm, Norm | Add) => 0.5,
        (Multiply, Gated) | (Gated, Multiply) => 0.6,
        // The split halves of a packed linear, and the sum that follows one: bias, or ranks.
        (Linear, Split | Add | Collective) | (Split | Add | Collective, Linear) => 0.2,
        (Layout, _) | (_, Layout) => 0.0,
        _ => -1.0,
    }
}

/// Words that say which of several alike operations one is, in every stack's spelling.
const ROLES: [(&str, &[&str]); 12] = [
    ("q", &["q_proj", "q", "query", "wq", "to_q", "query_proj"]),
    ("k", &["k_proj", "k", "key", "wk", "to_k", "key_proj"]),
    ("v", &["v_proj", "v", "value", "wv", "to_v", "value_proj"]),
    ("qkv", &["qkv_proj", "qkv", "query_key_value", "c_attn", "w_pack", "wqkv", "wqkv_proj"]),
    ("o", &["o_proj", "wo", "out_proj", "dense_proj", "o"]),
    ("gate", &["gate_proj", "gate", "w1", "linear_gate"]),
    ("up", &["up_proj", "up", "w3"]),
    ("gate_up", &["gate_up_proj", "gate_up", "dense_h_to_4h", "w13"]),
    ("down", &["down_proj", "down", "w2", "dense_4h_to_h"]),
    ("attn_norm", &["input_layernorm", "ln_1", "attention_norm", "attn_norm", "input_norm"]),
    ("mlp_norm", &["post_attention_layernorm", "ln_2", "ffn_norm", "mlp_norm", "post_attention_norm"]),
    ("head", &["lm_head", "lmhead", "output_layer"]),
];

/// The role that the last part of a name spells, if it is a known one.
pub(super) fn role(part: &str) -> Option<&'static str> {
    let part = part.to_ascii_lowercase();
    ROLES.iter().find(|(_, spellings)| spellings.contains(&part.as_str())).map(|&(role, _)| role)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_stack_spells_the_same_families() {
        let none = serde_json::Value::Null;
        for (family, names) in [
            (Linear, ["Linear", "LinearOperation", "ParallelLinearBaseV2", "LinearQuantOperation"]),
            (Norm, ["LlamaRMSNorm", "RmsNormOperation", "LayerNormOperation", "FastLayerNorm"]),
            (
                Attention,
                ["SelfAttentionOperation", "PagedAttentionOperation", "CoreAttention", "FlashAttention"],
            ),
            (Rope, ["RopeOperation", "LlamaRotaryEmbedding", "RotaryPositionEmbedding", "ApplyRotary"]),
            (Embedding, ["Embedding", "GatherOperation", "WordEmbedding", "VocabParallelEmbedding"]),
        ] {
            for name in names {
                assert_eq!(of(name, &none), family, "{name}");
            }
        }
        assert_eq!(of("ElewiseOperation", &json!({"elewiseType": 8})), Add);
        assert_eq!(of("ElewiseOperation", &json!({"elewiseType": 9})), Multiply);
        assert_eq!(of("ActivationOperation", &json!({"activationType": 6})), Gated);
        assert_eq!(of("AddRmsNormOperation", &none), AddNorm);
        assert_eq!(of("Bloom7bCommonLayer", &none), Unknown);
    }
}
