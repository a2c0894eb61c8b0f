"""What a run will take before it is begun: rows, disk, hours and memory of every stage, and which of them weighs most.

Hours on a CPU go by measured rates (plan_rates.py): `m` where this very work was measured, `s` where it is scaled.
Hours on a GPU are `r`, reckoned: operations over a stated share, mfu, of what the GPU could do. Bytes of features follow from the data
contract (plan_work.py), those of pictures from a mean, which is told.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from inspect import signature

from sur_adapter.registry import load
from sur_adapter.tools.planner import stage_costs as works
from sur_adapter.tools.planner.measured_rates import Rates
from sur_adapter.tools.planner.model_specs import Unknown
from sur_adapter.tools.planner.stage_costs import Task

BASE = 0.61 * 2**30  # bytes: a stage's libraries, before it has done anything (crawl.json)
FILTER = {
    "no_prompt",
    "nsfw",
    "too_small",
    "no_caption",
    "near_duplicate",
    "other_split",
    "made_up_prompt",
}  # its reasons; scores are others
PICTURE = {  # mean bytes of a picture: measured on 5,642 of the miniature's; published by DiffusionDB (2 million PNG, 14 million WebP)
    "miniature": 1039,
    "diffusiondb": 1.6e12 / 2e6,
    "diffusiondb, large": 6.5e12 / 14e6,
}


@dataclass
class Line:
    """A stage's figures. None: not known, and `why` says so; marks: m, s or r of each."""

    stage: str
    rows: int | None = None
    disk: float | None = None  # bytes
    cpu: float | None = None  # seconds of the machine that was measured
    gpu: float | None = None  # seconds
    held: float | None = None  # bytes
    mark: str = ""  # of cpu
    decoding: float = 0.0  # seconds of cpu that go into pictures' bytes, which a GPU does not spare
    why: str = ""


@dataclass
class Plan:
    lines: list[Line]
    notes: list[str] = field(default_factory=list)


def plan(
    params: dict,
    rates: Rates,
    funnel: dict | None = None,
    categories: dict[str, int] | None = None,
    means: dict[str, float] | None = None,
    *,
    rows: int | None = None,
    picture: float | None = None,
    mfu: float = 0.3,
    teraflops: float = 312.0,
    teraflops_fp32: float = 19.5,
) -> Plan:
    """funnel: of an earlier run. categories: name -> prompts there are to draw. means: source -> bytes of a picture as they lie here.

    rows: candidates, instead of those of params.yaml. picture: mean bytes of one. teraflops: what the GPU can do in bf16, and
    teraflops_fp32 in fp32 (those of an A100); mfu: the share of them that is reached.
    """
    notes: list[str] = []
    each = candidates(params["sources"], rows)
    total = None if None in each.values() else sum(each.values())
    if total is None:
        notes.append("how many pictures the sources hold is not known: give rows=…")
    crawled, kept, said = survivors(total, params, funnel)
    mean, by = bytes_of_a_picture(params["sources"], each, picture, means or {}, rates)
    notes += [said, by]
    prompts = _chosen(categories, params["generate"]["per_category"])
    swept = _chosen(categories, params["sweep"].get("per_category", 20))
    drawn = prompts and len(works.ARMS) * prompts * params["generate"]["seeds"]
    tasks: list[tuple[str, Callable[[], Task], object]] = [
        ("crawl", lambda: works.crawl(total, crawled, mean), total),
        ("caption", lambda: works.caption(crawled, params), total),
        *(
            (f"score@{lane}", lambda lane=lane, r=rules: works.score(crawled, lane, r or {}), total)
            for lane, rules in params["scores"].items()
        ),
        ("filter", lambda: works.filter(total), total),
        ("cache@clip", lambda: works.cache_clip(kept, params), total),
        ("cache@llm", lambda: works.cache_llm(kept, params, rates.tokens), total),
        ("cache@vae", lambda: works.cache_vae(kept, params), total),
        ("cache@queries", lambda: works.cache_queries(kept, params), total),
        ("train", lambda: works.train(kept, params), True),
        ("generate", lambda: works.generate(params, prompts), prompts),
        ("sweep", lambda: works.sweep(params, swept), prompts),
        ("evaluate", lambda: works.evaluate(params, drawn), prompts),
    ]
    peaks = {"fp32": teraflops_fp32 * 1e12 * mfu, "bf16": teraflops * 1e12 * mfu, "fp16": teraflops * 1e12 * mfu}
    lines = [_line(stage, make if known else None, rates, peaks, params, mean) for stage, make, known in tasks]
    if not categories:
        notes.append(f"{params['generate']['prompts']} holds no prompts that can be counted: drawing is left out")
    notes += _hosts(params["sources"], each)
    if decoding := sum(line.decoding for line in lines):
        notes.append(f"of the CPU hours {decoding / 3600:,.3g} are of one core that decodes pictures: they stay where a GPU does the rest")
    return Plan(lines, notes)


def candidates(sources: dict, rows: int | None) -> dict[str, int | None]:
    """source -> how many; `rows` are spread over several as params.yaml has them, or evenly where it does not say."""
    told = {name: (how or {}).get("limit", (how or {}).get("count")) for name, how in sources.items()}
    if rows is None:
        return told
    parts = told if all(told.values()) else dict.fromkeys(told, 1)
    return {name: round(rows * part / sum(parts.values())) for name, part in parts.items()}


def survivors(total: int | None, params: dict, funnel: dict | None) -> tuple[int, int, str]:
    """(rows that the crawl keeps, rows that the filter keeps, what this goes by)."""
    if total is None:
        return 0, 0, ""
    if not funnel or set(funnel["by_source"]) != set(params["sources"]):
        why = "is of other sources" if funnel else "is not there"
        return total, total, f"every row is taken to be kept: an earlier run's funnel {why}"
    reasons = FILTER | set(params["filter"])
    crawled = funnel["kept"] + sum(n for reason, n in funnel["dropped"].items() if reason in reasons)
    share, left = crawled / funnel["in"], funnel["kept"] / funnel["in"]
    return round(total * share), round(total * left), f"{share:.1%} are kept by the crawl and {left:.1%} by the filter, as in the last run"


def bytes_of_a_picture(sources: dict, each: dict, given: float | None, means: dict, rates: Rates) -> tuple[float, str]:
    """(the mean, where it is from)."""
    if given:
        return given, f"a picture has {given:,.0f} bytes: given"
    known = {}
    for name, how in sources.items():
        published = f"{name}, large" if (how or {}).get("large") else name
        known[name] = (means[name], "as they lie here") if name in means else (PICTURE.get(published, rates.picture), "stated")
        if name not in means and published not in PICTURE:
            known[name] = (rates.picture, "as in the benchmark of the crawl, since nothing is known of this source: give picture=…")
    parts = {name: each[name] or 1 for name in sources}
    mean = sum(known[name][0] * part for name, part in parts.items()) / sum(parts.values())
    return mean, "a picture has " + "; ".join(f"{size:,.0f} bytes in {name}, {by}" for name, (size, by) in known.items())


def _chosen(categories: dict[str, int] | None, per_category: int) -> int:
    return sum(min(count, per_category) for count in (categories or {}).values())


def _line(stage: str, make: Callable[[], Task] | None, rates: Rates, peaks: dict[str, float], params: dict, mean: float) -> Line:
    if make is None:
        return Line(stage, why="how many rows it has is not known")
    try:
        task = make()
    except Unknown as error:
        return Line(stage, why=str(error.args[0]))
    larger = (
        mean / rates.picture
    )  # than the pictures that were measured; decoding goes by bytes, fetching takes its time for small ones, too
    cpu = rates.picture_seconds * task.crawled * max(1, larger) + task.filtered * rates.row_seconds
    mark, gpu = "m" if 0 < task.filtered <= rates.rows else "s", 0.0
    for kind, (operations, precision) in task.work.items():
        rate, mark = rates.of(kind, params)
        cpu += operations / rate
        gpu += operations / peaks[precision]
    held = BASE + task.held + task.filtered * rates.row_bytes
    decoding = rates.picture_seconds * larger * task.decoded
    return Line(stage, task.rows, task.disk, cpu + decoding, gpu if task.work else None, held, mark, decoding, task.why)


def _hosts(sources: dict, each: dict) -> list[str]:
    """How long a polite crawl takes, whatever the machine: sources that ask hosts keep to a rate."""
    said = []
    for name, how in sources.items():
        takes = signature(load("sur_adapter.data.sources", name).rows).parameters
        rate = (how or {}).get("rate", takes["rate"].default) if "rate" in takes else None
        if rate and each[name]:
            said.append(
                f"sources.{name}.rate lets {rate:g} pictures a second come from a host: {each[name] / rate / 3600:,.1f} hours from one host"
            )
    return said
