"""What TLS costs: handshakes per second beside ``openssl s_time``, and octets per second beside the bare buffers.

Handshakes go to one ``openssl s_server`` on the loopback interface, each on a new TCP connection: this project's layer
steps through the handshake, states the facts and says close_notify; s_time does what it does. Full handshakes are
measured with TLS 1.3, resumed ones with TLS 1.2 too, because s_time takes up no TLS 1.3 tickets. Octets go to a process
that agrees on keys and then reads and throws away, once through the layer and once with nothing but
``SSLObject.write``, ``MemoryBIO.read`` and a blocking ``sendall``: no layer over memory buffers can be faster than
that. The runs alternate, and the ratio is the median of those of neighbours, so that a busy machine is unfair to both.
The CPU time of the client alone stands beside. ``python bench/tls.py --help`` for the options.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import re
import resource
import select
import selectors
import shutil
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from zsmtp.dns.candidates import Family
from zsmtp.net.tlslayer import HandshakeStep, TLSLayer
from zsmtp.net.transport import SocketStream
from zsmtp.tls.chain import TrustAnchors
from zsmtp.tls.context import ContextOptions, client_context
from zsmtp.tls.judgement import judge
from zsmtp.tls.policy import Level, Requirement
from zsmtp.tls.resume import ResumableSession

HOST = "127.0.0.1"
PATIENCE = 30.0  # seconds
BLOCK = 64 * 1024  # octets
REQUIREMENT = Requirement(level=Level.VERIFY, reason="bench", names=("localhost",))
CONTEXT = client_context(ContextOptions())


class BenchError(Exception):
    """Something did not work as it must, so that numbers would mean nothing."""


def make_certificate(openssl: str, directory: Path) -> tuple[Path, Path]:
    """A self-signed certificate with a P-256 key, and the key."""
    certificate, key = directory / "cert.pem", directory / "key.pem"
    command = [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    extension = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*command, *extension, *files], check=True, capture_output=True)
    return certificate, key


@contextlib.contextmanager
def server(openssl: str, certificate: Path, key: Path, version: str) -> Iterator[int]:
    """An s_server that speaks one version; its port."""
    command = [openssl, "s_server", "-accept", f"{HOST}:0", "-www", version]
    files = ["-cert", str(certificate), "-key", str(key)]
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([*command, *files], **pipes) as process:  # type: ignore[call-overload]
        try:
            for line in process.stdout:
                if line.startswith(b"ACCEPT "):
                    yield int(line.rpartition(b":")[2])
                    break
            else:
                raise BenchError("s_server does not start")
        finally:
            process.kill()


def open_layer(port: int, resume: ResumableSession | None = None) -> TLSLayer:
    """A connection with its handshake done."""
    sock = socket.create_connection((HOST, port), timeout=PATIENCE)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setblocking(False)
    layer = TLSLayer(SocketStream(sock, Family.INET), CONTEXT, server_name="localhost", resume=resume)
    poll = select.poll()
    while (step := layer.handshake_step()) is not HandshakeStep.DONE:
        poll.register(sock, select.POLLIN if step is HandshakeStep.WANT_READ else select.POLLOUT)
        if not poll.poll(PATIENCE * 1000):
            raise BenchError("a handshake takes too long")
    return layer


def full(port: int) -> None:
    layer = open_layer(port)
    if layer.facts().resumed:
        raise BenchError("a handshake was resumed that should not be")
    layer.close()


def verified(port: int, anchors: TrustAnchors) -> None:
    layer = open_layer(port)
    judgement = judge(REQUIREMENT, layer.facts(), now=time.time(), anchors=lambda: anchors)
    if not judgement.ok:
        raise BenchError(judgement.text)
    layer.close()


def first_session(port: int) -> ResumableSession:
    """A session to take up again; with TLS 1.3 its ticket comes behind the handshake."""
    layer = open_layer(port)
    chain = layer.facts().chain
    poll = select.poll()
    poll.register(layer, select.POLLIN)
    while (session := layer.session()) is None:
        if not poll.poll(PATIENCE * 1000):
            raise BenchError("no session can be resumed")
        layer.receive()
    layer.close()
    return ResumableSession(session, chain, since=0.0)


def resumed(port: int, session: ResumableSession) -> None:
    layer = open_layer(port, session)
    if not layer.facts().resumed:
        raise BenchError("a handshake was not resumed")
    layer.close()


class Run(NamedTuple):
    """One run: how much per second, and the client's CPU seconds for one of them."""

    speed: float
    cpu: float


def cpu(who: int) -> float:
    usage = resource.getrusage(who)
    return usage.ru_utime + usage.ru_stime


def rate(work: Callable[[], None], seconds: float) -> Run:
    """How often per second."""
    count, began, used = 0, time.perf_counter(), cpu(resource.RUSAGE_SELF)
    while (took := time.perf_counter() - began) < seconds:
        work()
        count += 1
    return Run(count / took, (cpu(resource.RUSAGE_SELF) - used) / count)


def s_time(openssl: str, port: int, seconds: float, *options: str) -> Run:
    """What s_time reports for as many seconds (whole ones): connections per second of real time."""
    command = [openssl, "s_time", "-connect", f"{HOST}:{port}", "-time", str(max(1, round(seconds))), *options]
    began, used = time.perf_counter(), cpu(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, capture_output=True, check=True, timeout=PATIENCE + seconds)
    took = time.perf_counter() - began
    found = re.search(rb"(\d+) connections in (\d+) real seconds", done.stdout)
    if found is None:
        raise BenchError(f"s_time says {done.stdout[-200:]!r}")
    count = int(found[1])
    # its own seconds are rounded up to the next whole one
    return Run(count / took, (cpu(resource.RUSAGE_CHILDREN) - used) / count)


def sending(work: Callable[[int, int], float], port: int, megabytes: int) -> Run:
    """How many MB per second ``work`` sends, which tells how long it took without the handshake."""
    used = cpu(resource.RUSAGE_SELF)
    speed = megabytes / work(port, megabytes * 1_000_000)
    return Run(speed, (cpu(resource.RUSAGE_SELF) - used) / megabytes)


def throw_away(listener: socket.socket, certificate: str, key: str) -> None:
    """For each connection: agree on keys, then read without decrypting until the other side closes."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    room = bytearray(1 << 20)
    while True:
        sock, _ = listener.accept()
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(incoming, outgoing, server_side=True)
        with sock, contextlib.suppress(ConnectionResetError):  # who closes with tickets unread resets
            while True:
                try:
                    tls.do_handshake()
                    sock.sendall(outgoing.read())
                    break
                except ssl.SSLWantReadError:
                    sock.sendall(outgoing.read())
                    incoming.write(sock.recv(65536))
            while sock.recv_into(room):
                pass


def through_the_layer(port: int, size: int) -> float:
    """Seconds to send ``size`` octets through the layer."""
    layer = open_layer(port)
    block = memoryview(bytes(4 * BLOCK))  # as message content comes
    with selectors.PollSelector() as selector:
        selector.register(layer, selectors.EVENT_WRITE)
        began = time.perf_counter()
        left = size
        while left:
            rest = block[:left]
            while rest:
                sent = layer.send(rest)
                left -= sent
                rest = rest[sent:]
                if rest and not selector.select(PATIENCE):
                    raise BenchError("the receiver does not read")
        took = time.perf_counter() - began
    layer.close()
    return took


def bare(port: int, size: int) -> float:
    """Seconds to send ``size`` octets with nothing around the memory buffers."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = CONTEXT.wrap_bio(incoming, outgoing)
    block = memoryview(bytes(BLOCK))
    with socket.create_connection((HOST, port), timeout=PATIENCE) as sock:
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                sock.sendall(outgoing.read())
                incoming.write(sock.recv(65536))
        sock.sendall(outgoing.read())
        sock.settimeout(None)
        began = time.perf_counter()
        for start in range(0, size, BLOCK):
            rest = block[: size - start]
            while rest:
                rest = rest[tls.write(rest) :]
            sock.sendall(outgoing.read())
        return time.perf_counter() - began


def show(name: str, runs: list[Run], unit: str, each: str) -> None:
    speeds = [run.speed for run in runs]
    spread = f"(from {min(speeds):.0f} to {max(speeds):.0f})"
    spent = statistics.median(run.cpu for run in runs) * 1e6
    print(f"  {name:30} {statistics.median(speeds):6.0f} {unit:10}  {spread:21} {spent:5.0f} us of CPU for each {each}")


def compare(
    title: str,
    ours: tuple[str, Callable[[], Run]],
    theirs: tuple[str, Callable[[], Run]],
    runs: int,
    unit: str,
    each: str,
) -> None:
    """Run both in turns and print medians, and the median of the ratios of neighbours."""
    pairs = [(ours[1](), theirs[1]()) for _ in range(runs)]
    print(title)
    show(ours[0], [pair[0] for pair in pairs], unit, each)
    show(theirs[0], [pair[1] for pair in pairs], unit, each)
    ratios = [our.speed / their.speed for our, their in pairs]
    print(f"  ratio {statistics.median(ratios):.2f}   (from {min(ratios):.2f} to {max(ratios):.2f})")


def compare_handshakes(openssl: str, certificate: Path, key: Path, *, runs: int, seconds: float) -> None:
    with server(openssl, certificate, key, "-tls1_3") as port:
        compare(
            "full handshakes, TLS 1.3, P-256",
            ("zsmtp", lambda: rate(lambda: full(port), seconds)),
            ("openssl s_time -new", lambda: s_time(openssl, port, seconds, "-new")),
            runs,
            "per second",
            "one",
        )
        anchors = TrustAnchors([ssl.PEM_cert_to_DER_cert(certificate.read_text())])
        numbers = [rate(lambda: verified(port, anchors), seconds) for _ in range(runs)]
        show("zsmtp, chain and name verified", numbers, "per second", "one")
        session = first_session(port)
        numbers = [rate(lambda: resumed(port, session), seconds) for _ in range(runs)]
        show("zsmtp, resumed", numbers, "per second", "one")
    with server(openssl, certificate, key, "-tls1_2") as port:
        session = first_session(port)
        compare(
            "resumed handshakes, TLS 1.2",
            ("zsmtp", lambda: rate(lambda: resumed(port, session), seconds)),
            ("openssl s_time -reuse", lambda: s_time(openssl, port, seconds, "-reuse")),
            runs,
            "per second",
            "one",
        )


def compare_octets(certificate: Path, key: Path, *, runs: int, megabytes: int) -> None:
    with socket.create_server((HOST, 0)) as listener:
        port = listener.getsockname()[1]
        arguments = (listener, str(certificate), str(key))
        process = multiprocessing.get_context("fork").Process(target=throw_away, args=arguments, daemon=True)
        process.start()
        try:
            compare(
                f"{megabytes} MB through one connection",
                ("zsmtp", lambda: sending(through_the_layer, port, megabytes)),
                ("bare MemoryBIO and sendall", lambda: sending(bare, port, megabytes)),
                runs,
                "MB/s",
                "MB",
            )
        finally:
            process.kill()
            process.join()


def main() -> int:
    parser = argparse.ArgumentParser(description="TLS handshakes and throughput, beside OpenSSL's own.")
    parser.add_argument("--runs", type=int, default=5, help="runs of each, in turns (default: 5)")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of a run of handshakes (default: 2)")
    parser.add_argument("--megabytes", type=int, default=100, help="octets of a run, in millions (default: 100)")
    options = parser.parse_args()
    if options.runs < 3 or options.seconds < 1 or options.megabytes < 1:
        parser.error("at least 3 runs, 1 second, 1 megabyte")
    openssl = shutil.which("openssl")
    if openssl is None:
        print("bench/tls.py needs openssl(1)", file=sys.stderr)
        return 1
    try:
        with tempfile.TemporaryDirectory(prefix="zsmtp-bench-") as directory:
            certificate, key = make_certificate(openssl, Path(directory))
            compare_handshakes(openssl, certificate, key, runs=options.runs, seconds=options.seconds)
            compare_octets(certificate, key, runs=options.runs, megabytes=options.megabytes)
    except (BenchError, OSError, subprocess.SubprocessError) as error:
        print(f"bench/tls.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
