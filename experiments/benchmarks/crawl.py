"""Speed of the crawler, and whether memory and cost per image stay flat.

    python -m experiments.benchmarks.crawl 1000 5000 10000 50000

A server in its own process on this machine serves 512 px JPEGs, all with different bytes, in pages of 200 as Civitai does; `crawl` fetches,
decodes and stores them as received. Writes experiments/benchmarks/crawl.json. The measure is images per second of CPU time of the crawling
process, all threads together: a second of one core, whatever else the machine does.
"""

import asyncio
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from io import BytesIO
from multiprocessing import Process, Queue
from pathlib import Path

from aiohttp import web
from PIL import Image, ImageFilter

HERE = Path(__file__)
KINDS = 16  # different images; every served copy has its own comment


def image(seed: int) -> bytes:
    """Makes a 512 px JPEG with about as many bytes as a photograph of that size."""
    channels = [Image.effect_noise((512, 512), 60 + 3 * seed + k).filter(ImageFilter.GaussianBlur(1.2)) for k in range(3)]
    Image.merge("RGB", channels).save(buffer := BytesIO(), "jpeg", quality=90)
    return buffer.getvalue()


def with_comment(jpeg: bytes, comment: bytes) -> bytes:
    return jpeg[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + jpeg[2:]


def serve(port: Queue) -> None:
    images = [image(seed) for seed in range(KINDS)]

    async def page(request: web.Request) -> web.Response:
        start = int(request.query.get("cursor", 0))
        items = [
            {"url": f"http://{request.host}/{i}.jpg", "type": "image", "nsfw": "None", "meta": {"prompt": f"prompt {i}"}}
            for i in range(start, start + 200)
        ]
        return web.json_response({"items": items, "metadata": {"nextCursor": start + 200}})

    async def one(request: web.Request) -> web.Response:
        number = request.match_info["number"]
        return web.Response(body=with_comment(images[int(number) % KINDS], number.encode()), content_type="image/jpeg")

    async def run() -> None:
        app = web.Application()
        app.add_routes([web.get("/api/v1/images", page), web.get(r"/{number:\d+}.jpg", one)])
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port.put((site._server.sockets[0].getsockname()[1], sum(map(len, images)) // KINDS))
        await asyncio.Event().wait()

    asyncio.run(run())


def measure(port: int, count: int) -> None:
    """Crawls in this process and prints the figures."""
    import webdataset  # noqa: F401  a one-time cost of seconds

    from stages.crawl import crawl
    from sur_adapter.data.sources import civitai
    from sur_adapter.executors.base import ExecutorConfig
    from sur_adapter.io.schema import ROWS_PER_SHARD
    from sur_adapter.io.shards import read_table

    config = civitai.Config(url=f"http://127.0.0.1:{port}", limit=count, rate=None, private=(f"127.0.0.1:{port}",))
    before, started, used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory(dir=os.environ["SUR_WORK"]) as folder:
        crawl("civitai", civitai, config, Path(folder) / "civitai", None, ExecutorConfig(), ROWS_PER_SHARD)
        wall, cpu = time.perf_counter() - started, time.process_time() - used
        assert read_table(Path(folder) / "civitai").dropped.isna().sum() == count
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    figures = {
        "pictures": count,
        "pictures_per_core_second": count / cpu,
        "pictures_per_second": count / wall,
        "cpu_ms_per_picture": 1000 * cpu / count,
    }
    print(json.dumps({k: round(v, 2) for k, v in figures.items()} | {"peak_mib": peak // 1024, "peak_mib_before": before // 1024}))


def main(counts: list[int]) -> None:
    port = Queue()
    server = Process(target=serve, args=(port,), daemon=True)
    server.start()
    number, size = port.get()
    runs = []
    with tempfile.TemporaryDirectory() as work:
        for count in counts:
            command = [sys.executable, "-m", "experiments.benchmarks.crawl", "measure", str(number), str(count)]
            done = subprocess.run(
                command, env=os.environ | {"SUR_WORK": work, "TQDM_DISABLE": "1"}, capture_output=True, text=True, check=True
            )
            runs.append(json.loads(done.stdout))
            print(runs[-1], flush=True)
    server.kill()
    HERE.with_suffix(".json").write_text(json.dumps({"bytes_per_picture": size, "cores": os.cpu_count(), "runs": runs}, indent=2) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["measure"]:
        measure(*map(int, sys.argv[2:]))
    else:
        main([int(x) for x in sys.argv[1:]] or [1000, 5000, 10_000])
