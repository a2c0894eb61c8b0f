"""The HTTP client is polite, and nothing that a host does ends in a crash, a hang or a lost response."""

import asyncio
import gzip
import time
from email.utils import formatdate
from urllib.robotparser import RobotFileParser

import pytest
from helpers.hostile_server import Mute, Site, bounded, endless, gzip_of_zeros, trickle

from sur_adapter.data.crawl import politeness
from sur_adapter.data.crawl.address_guard import is_public
from sur_adapter.data.crawl.http_client import HttpClient, HttpConfig


def get(*urls: str, **settings) -> list:
    """The result of each URL; all are requested at once."""

    async def get_all():
        config = HttpConfig(**{"timeout": 0.5, "tries": 2, "max_bytes": 100_000} | settings)
        async with HttpClient(config) as client:
            return await asyncio.gather(*map(client.get, urls))

    return asyncio.run(get_all())


def one(answer, robots=None, path="/a.png", **settings) -> tuple:
    """Fetches one URL of a site with these responses and returns the result."""
    with Site(answer, robots) as site:
        return get(site.url + path, **{"private": [site.host]} | settings)[0]


# responses


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ((200, {}, trickle(3)), "timeout"),
        ((200, {"Content-Length": "60"}, trickle(3)), "timeout"),
        ((200, {}, endless), "too many bytes"),
        ((200, {"Content-Length": "100001"}, trickle(3)), "too many bytes"),
        ((200, {"Content-Length": "50"}, b"x" * 30), "cut short"),
        ((200, {"Content-Length": "many"}, b"x"), "connection failed"),
        ((200, {"Content-Encoding": "gzip"}, gzip_of_zeros(50_000_000)), "too many bytes"),
        ((200, {"Content-Encoding": "gzip"}, gzip.compress(bytes(range(256)))[:-9]), "cut short"),
        ((200, {"Content-Encoding": "gzip"}, b"no gzip"), "broken encoding"),
        ((200, {"Content-Encoding": "br"}, b"x"), "unknown encoding"),
        ((200, {"X-Long": "x" * 100_000}, b"x"), "connection failed"),
        ((302, {"Location": "/again"}, b""), "too many redirects"),
        ((302, {"Location": "http://10.1.2.3/"}, b""), "private address"),
        ((302, {"Location": "http://169.254.169.254/latest/meta-data"}, b""), "private address"),
        ((302, {"Location": "file:///etc/passwd"}, b""), "no address"),
        ((302, {"Location": "http://[::1"}, b""), "no address"),
        ((302, {}, b""), "http 302"),
        ((200, {"X-Robots-Tag": "noindex, NoAI"}, b"x"), "opted out: noai"),
        ((200, {"X-Robots-Tag": "somebot: noimageai"}, b"x"), "opted out: noimageai"),
        ((200, {"tdm-reservation": "1"}, b"x"), "opted out: tdm-reservation"),
        ((404, {}, endless), "http 404"),
    ],
)
def test_every_response_ends_soon_with_a_reason(answer, reason):
    started = time.monotonic()
    assert one(lambda *_: answer) == (None, reason)
    assert time.monotonic() - started < 3


def test_a_response_longer_than_its_content_length_corrupts_no_other():
    with Site(lambda path, _: (200, {"Content-Length": "3"} if path == "/long" else {}, b"abcdef")) as site:
        result = get(site.url + "/long", *[f"{site.url}/{i}" for i in range(9)], private=[site.host], workers=1)
    assert result[0] in ((b"abc", None), (None, "connection failed")) and result[1:] == [(b"abcdef", None)] * 9


def test_a_host_that_never_responds_times_out():
    with Mute() as mute:
        started = time.monotonic()
        assert get(f"http://{mute.host}/a", private=[mute.host]) == [(None, "timeout")]
        assert time.monotonic() - started < 3


def test_bytes_are_returned_as_received_and_gzip_is_decompressed():
    assert one(lambda *_: (200, {"X-Robots-Tag": "noindex", "tdm-reservation": "0"}, b"as it is")) == (b"as it is", None)
    assert one(lambda *_: (200, {"Content-Encoding": "gzip"}, gzip.compress(b"words"))) == (b"words", None)
    assert one(lambda path, _: (200, {}, b"there") if path == "/b" else (302, {"Location": "/b"}, b"")) == (b"there", None)


def test_a_self_signed_certificate_is_refused(tmp_path):
    x509 = pytest.importorskip("cryptography.x509")
    import ssl
    from datetime import UTC, datetime, timedelta

    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
    builder = builder.not_valid_before(datetime.now(UTC) - timedelta(1)).not_valid_after(datetime.now(UTC) + timedelta(1))
    certificate = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    secret = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (tmp_path / "both.pem").write_bytes(certificate + secret)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "both.pem")
    with Site(lambda *_: (200, {}, b"x")) as site:
        site.server.socket = context.wrap_socket(site.server.socket, server_side=True)
        assert get(site.url.replace("http", "https"), private=[site.host]) == [(None, "certificate refused")]
        assert site.requests == []


# private addresses


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1", "255.255.255.255"),
        *("::1", "::", "fe80::1", "fe80::1%eth0", "fd00:ec2::254", "ff02::1", "::127.0.0.1"),
        *("::ffff:127.0.0.1", "::ffff:169.254.169.254", "64:ff9b::7f00:1", "2002:7f00:1::", "2001:0:7f00:1::"),
    ],
)
def test_addresses_of_this_machine_its_network_and_its_cloud_are_not_public(address):
    assert not is_public(address)


def test_addresses_of_the_open_network_are_public():
    assert all(map(is_public, ["1.1.1.1", "93.184.215.14", "2606:4700:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101", "2002:101:101::"]))


def test_this_machine_is_requested_under_no_name_or_address_unless_params_allow_it():
    with Site(lambda *_: (200, {}, b"secret")) as site:
        port = site.host.rpartition(":")[2]
        names = (
            "127.0.0.1",
            "localhost",
            "2130706433",
            "127.1",
            "0",
            "0177.0.0.1",
            "0x7f000001",
            "[::1]",
            "[::ffff:127.0.0.1]",
            "127。0。0。1",
        )
        for name, result in zip(names, get(*[f"http://{name}:{port}/" for name in names]), strict=True):
            assert result[0] is None and result[1] in ("private address", "no address"), (name, result)
        assert get(site.url, private=["127.0.0.1:1"]) == [(None, "private address")], "another port is another source"
        assert site.requests == [] and site.robots_requests == 0
        assert get(f"http://localhost:{port}/", private=[f"localhost:{port}"]) == [(b"secret", None)]


def test_a_redirect_to_this_machine_is_not_followed():
    with Site(lambda *_: (200, {}, b"secret")) as inside, Site(lambda *_: (302, {"Location": inside.url}, b"")) as site:
        assert get(site.url, private=[site.host]) == [(None, "private address")]
        assert inside.requests == [] and inside.robots_requests == 0


@pytest.mark.parametrize("url", ["", "x", "ftp://1.1.1.1/a", "javascript:1", "http://", "http://[", "http:///a", "http://x\ud800/", None])
def test_an_invalid_url_is_not_requested(url):
    assert get(url) == [(None, "no address")]


# politeness


def test_robots_txt_is_fetched_once_and_obeyed():
    robots = "User-agent: *\nDisallow: /no\n\nUser-agent: sur-adapter\nDisallow: /never\n"
    with Site(lambda *_: (200, {}, b"ok"), robots) as site:
        result = get(*[site.url + path for path in ("/never/a", "/no", "/yes")], private=[site.host])
        assert result == [(None, "robots.txt forbids"), (b"ok", None), (b"ok", None)]
        assert site.robots_requests == 1 and "/never/a" not in [p for p, _ in site.requests]


@pytest.mark.parametrize(
    ("rules", "allowed", "forbidden"),
    [
        ("Disallow: /a", "/b /A /", "/a /ab /a/b"),
        ("Disallow: /*.png$", "/a.png?x /a.jpg /png", "/a.png /b/c.png /a.png/b.png"),
        ("Disallow: /*/full/*/raw", "/full/x/raw /x/full/raw", "/x/full/y/raw /x/full/y/rawer"),
        ("Disallow: /\nAllow: /open", "/open /open/a", "/ /shut"),
        ("Allow: /a\nDisallow: /a/b\nAllow: /a/b/c", "/a /a/b/c", "/a/b /a/b/d"),
        ("Disallow: /a$", "/ab /", "/a"),
        ("Disallow: /*?token=", "/a /a?b=1", "/a?token=1"),
        ("Disallow: /caf%C3%A9\nDisallow: /%7Eme", "/cafe", "/café/x /~me /%7eme"),
        ("Disallow:", "/ /a", ""),
        ("Disallow: " + "/*a" * 500 + "$", "/" + "a" * 1000, ""),
    ],
)
def test_robots_txt_is_read_as_rfc_9309_says(rules, allowed, forbidden):
    robots = politeness.RobotsTxt(f"User-agent: *\n{rules}\n".encode())
    assert [p for p in allowed.split() if not robots.allows(f"http://x.org{p}")] == []
    assert [p for p in forbidden.split() if robots.allows(f"http://x.org{p}")] == []


PLAIN_FILES = [
    "User-agent: *\nDisallow: /private\nDisallow: /tmp/\n",
    "# comment\nUser-agent: *\nDisallow: /  # all of it\n",
    "User-agent: other-bot\nDisallow: /\n\nUser-agent: *\nDisallow: /private\n",
    "User-agent: *\nDisallow: /\n\nUser-agent: SUR-Adapter\nDisallow: /tmp/\nCrawl-delay: 3\n",
    "User-agent: one\nUser-agent: sur-adapter\nUser-agent: two\nDisallow: /private\nCrawl-delay: 2\n",
    "User-agent: *\nDisallow:\n",
    "User-agent: other-bot\nDisallow: /\n",
    "User-agent: *\r\nDisallow: /caf%C3%A9\r\nDisallow: /a?b=c\r\n",
    "Sitemap: http://x.org/map.xml\nUser-agent: *\nCrawl-delay: 5\n",
    "",
]


@pytest.mark.parametrize("text", PLAIN_FILES)
def test_the_standard_library_reads_plain_robots_txt_the_same_way(text):
    parser, robots = RobotFileParser(), politeness.RobotsTxt(text.encode())
    parser.parse(text.splitlines())
    for path in ("/", "/private", "/private/a.png", "/tmp", "/tmp/x", "/a", "/a?b=c", "/caf%C3%A9", "/café/x", "/public/a.png?private"):
        assert robots.allows(f"http://x.org{path}") == parser.can_fetch("sur-adapter", f"http://x.org{path}"), path
    assert robots.crawl_delay == float(parser.crawl_delay("sur-adapter") or 0)


@pytest.mark.parametrize(
    ("lines", "allowed"),
    [
        ("User-agent: sur", False),  # a prefix of our name
        ("User-agent: SUR-ADAPTER/0.1", True),  # another name
        ("User-agent: sur-adapter # us", False),
        ("user agent:sur*", False),
        ("User-agent:\nUser-agent: other", True),
        ("User-agent: surfer", True),
        ("User-agent: adapter", True),
        ("Useragent **", False),
    ],
)
def test_robots_txt_names_this_crawler_by_its_product_token_or_a_prefix(lines, allowed):
    assert politeness.RobotsTxt(f"{lines}\nDisallow: /a\n".encode()).allows("http://x.org/a") == allowed


def test_a_robots_txt_of_many_agents_and_rules_takes_little_memory_and_time():
    agents = "".join(f"User-agent: b{i}\n" for i in range(15_000)) + "".join(f"User-agent: {'sur-adapter'[:n]}\n" for n in range(1, 12))
    text = f"{agents}User-agent: *\n" + "".join(f"Disallow: /{i}\n" for i in range(14_000))
    assert 400_000 < len(text) < 512 * 1024
    with bounded(megabytes=100, seconds=10):
        robots = politeness.RobotsTxt(text.encode())
        assert not robots.allows("http://x.org/13999") and robots.allows("http://x.org/a")


@pytest.mark.parametrize(
    ("robots", "expected"),
    [
        ((404, {}, b""), (b"ok", None)),
        ((403, {}, b""), (b"ok", None)),
        ((200, {}, b"<html>no rules</html>"), (b"ok", None)),
        ((200, {}, b"User-agent: *\nDisallow: /"), (None, "robots.txt forbids")),
        ((200, {}, b"User-agent: *\nCrawl-delay: 3600"), (None, "robots.txt: crawl-delay")),
        ((500, {}, b""), (None, "robots.txt: http 500")),
        ((429, {"Retry-After": "0"}, b""), (None, "robots.txt: http 429")),
        ((200, {}, endless), (None, "robots.txt: too many bytes")),
        ((200, {}, trickle(2)), (None, "timeout")),
        ((302, {"Location": "http://10.0.0.1/robots.txt"}, b""), (None, "private address")),
    ],
)
def test_without_robots_txt_all_is_allowed_and_if_it_cannot_be_fetched_nothing(robots, expected):
    assert one(lambda *_: (200, {}, b"ok"), robots) == expected


def test_a_redirect_does_not_bypass_robots_txt():
    with (
        Site(lambda *_: (200, {}, b"x"), "User-agent: *\nDisallow: /") as other,
        Site(lambda *_: (302, {"Location": other.url}, b"")) as site,
    ):
        assert get(site.url, private=[site.host, other.host]) == [(None, "robots.txt forbids")]
        assert other.requests == []


def test_a_host_gets_no_more_requests_at_a_time_than_configured():
    busy, most = [], []

    def answer(path, _):
        busy.append(path)
        most.append(len(busy))
        time.sleep(0.15)
        busy.remove(path)
        return 200, {}, b"ok"

    with Site(answer) as site:
        get(*[f"{site.url}/{i}" for i in range(8)], private=[site.host], rate=None, workers=2)
    assert len(most) == 8 and max(most) == 2


def test_a_host_gets_no_more_requests_per_second_than_configured():
    with Site(lambda *_: (200, {}, b"ok")) as site:
        start = time.monotonic()  # of the whole: on a busy machine the site may see two requests together that were sent apart
        get(*[f"{site.url}/{i}" for i in range(8)], private=[site.host], rate=20, workers=8)
        assert time.monotonic() - start > 7 / 20


def test_a_crawl_delay_is_obeyed():
    with Site(lambda *_: (200, {}, b"ok"), "User-agent: *\nCrawl-delay: 1") as site:
        start = time.monotonic()
        get(site.url + "/a", site.url + "/b", private=[site.host])
        assert time.monotonic() - start > 1


@pytest.mark.parametrize("retry_after", ["1", "date"])
@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_host_gets_no_request_until_the_time_in_retry_after(status, retry_after):
    times = []

    def answer(path, _):
        times.append(time.monotonic())
        wait = retry_after if retry_after != "date" else formatdate(time.time() + 2, usegmt=True)  # a date has whole seconds
        return (status, {"Retry-After": wait}, b"") if len(times) == 1 else (200, {}, b"ok")

    with Site(answer) as site:
        result = get(*[f"{site.url}/{i}" for i in range(4)], private=[site.host], workers=1)
    assert result == [(b"ok", None)] * 4 and len(times) == 5
    assert times[1] - times[0] > 0.9


def test_after_429_without_retry_after_there_is_a_pause():
    times = []
    with Site(lambda *_: times.append(time.monotonic()) or ((429, {}, b"") if len(times) == 1 else (200, {}, b"ok"))) as site:
        assert get(site.url + "/a", site.url + "/b", private=[site.host], workers=1) == [(b"ok", None)] * 2
    assert times[1] - times[0] > 0.9


def test_a_host_with_retry_after_of_an_hour_is_not_requested_again():
    with Site(lambda *_: (429, {"Retry-After": "3600"}, b"")) as site:
        started = time.monotonic()
        result = get(*[f"{site.url}/{i}" for i in range(9)], private=[site.host], workers=1)
        assert result == [(None, "http 429")] * 9 and len(site.requests) == 1
        assert time.monotonic() - started < 2


def test_attempts_are_limited_and_after_repeated_failures_a_host_is_not_requested_again(monkeypatch):
    monkeypatch.setattr(politeness, "MAX_FAILURES", 3)
    with Site(lambda *_: (503, {"Retry-After": "0"}, b"")) as site:
        result = get(*[f"{site.url}/{i}" for i in range(6)], private=[site.host], workers=1, tries=2)
        assert [reason for _, reason in result].count("http 503") >= 3
        assert set(result) == {(None, "http 503"), (None, "host given up: http 503")} and len(site.requests) < 12


def test_a_host_that_recovers_is_still_requested(monkeypatch):
    monkeypatch.setattr(politeness, "MAX_FAILURES", 3)
    with Site(lambda path, _: (200, {}, b"ok") if int(path[1:]) % 3 == 0 else (503, {"Retry-After": "0"}, b"")) as site:
        result = get(*[f"{site.url}/{i}" for i in range(12)], private=[site.host], workers=1, tries=1)
    assert [reason for _, reason in result] == [None if i % 3 == 0 else "http 503" for i in range(12)]


def test_idle_hosts_are_dropped_when_there_are_too_many(monkeypatch):
    monkeypatch.setattr("sur_adapter.data.crawl.http_client.MAX_HOSTS", 2)

    async def num_hosts(*sites):
        async with HttpClient(HttpConfig(private=tuple(s.host for s in sites))) as client:
            assert [await client.get(s.url) for s in sites for _ in range(2)] == [(b"ok", None)] * 8
            return len(client.hosts)

    sites = [Site(lambda *_: (200, {}, b"ok")) for _ in range(4)]
    with sites[0], sites[1], sites[2], sites[3]:
        assert asyncio.run(num_hosts(*sites)) <= 2
        assert [len(s.requests) for s in sites] == [2] * 4
