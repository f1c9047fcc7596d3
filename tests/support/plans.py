"""Plans of every kind, for properties: hypothesis strategies for :class:`~zsmtp.delivery.deliveryplan.DeliveryPlan`."""

from __future__ import annotations

from hypothesis import strategies as st

from zsmtp.delivery.deliveryplan import DeliveryPlan
from zsmtp.dns.answer import MX, TLSA, WKS, Answer, Query, RecordType, Status
from zsmtp.dns.candidates import Candidate, Endpoint, Family, NoRoute, Plan
from zsmtp.dns.ip import format_ip
from zsmtp.proto.plan import TLSDemand
from zsmtp.tls.mtasts import CachedPolicy, PolicyLookup, PolicyMode
from zsmtp.tls.mtasts import STSPolicy as STSPolicy
from zsmtp.tls.policy import Barred, Level, Requirement, RequirementSource, TLSPolicy
from zsmtp.tls.problem import TLSProblem

texts = st.text(max_size=20)
names = st.from_regex(r"[a-z0-9]{1,8}(\.[a-z]{1,5}){1,2}", fullmatch=True)
ipv4 = st.binary(min_size=4, max_size=4).map(format_ip)
ipv6 = st.binary(min_size=16, max_size=16).map(format_ip)
ports = st.integers(1, 65535)
octets = st.binary(max_size=70)

_sockets = st.from_regex(r"/[a-z/]{1,30}", fullmatch=True)
endpoints = st.one_of(
    st.builds(Endpoint, names, ipv4, ports, st.just(Family.INET)),
    st.builds(Endpoint, names, ipv6, ports, st.just(Family.INET6)),
    st.builds(lambda a, p: Endpoint(a, a, p, Family.INET, literal=True), ipv4, ports),
    st.builds(lambda a, p: Endpoint(a, a, p, Family.INET6, literal=True), ipv6, ports),
    st.builds(lambda path: Endpoint(path, path, 0, Family.UNIX, literal=True), _sockets),
)
candidates = st.builds(Candidate, endpoints, st.integers(0, 65535))
tlsa = st.builds(TLSA, st.integers(0, 255), st.integers(0, 255), st.integers(0, 255), octets)
records = st.one_of(
    st.builds(MX, st.integers(0, 65535), names | st.just("")),
    tlsa,
    st.builds(WKS, ipv4, st.integers(0, 255), st.frozensets(ports, max_size=4)),
    ipv4,
    st.lists(octets, min_size=1, max_size=3).map(tuple),
)
answers = st.builds(
    Answer,
    st.builds(Query, texts, st.sampled_from(RecordType)),
    st.sampled_from(Status),
    st.lists(records, max_size=3).map(tuple),
    texts,
    st.integers(0, 1 << 31),
    st.booleans(),
    texts,
    texts,
)
routes = st.builds(
    Plan,
    destination=texts,
    candidates=st.lists(candidates, max_size=4).map(tuple),
    failure=st.none() | st.builds(NoRoute, st.booleans(), texts, texts),
    lookups=st.lists(answers, max_size=4).map(tuple),
    notes=st.lists(texts, max_size=3).map(tuple),
    exchangers=st.lists(names, max_size=3).map(tuple),
)
barred = st.builds(Barred, texts, st.sampled_from(RequirementSource), st.sampled_from(TLSProblem))


def _requirement(
    level: Level, trial: Requirement | Barred | None, record: TLSA, digest: bytes, name: str
) -> Requirement:
    return Requirement(
        level=level,
        reason=f"because of {name}",
        source=RequirementSource.DANE if level is Level.DANE else RequirementSource.CONFIGURED,
        names=(name, f".{name}"),
        fingerprints=(digest,) if level is Level.FINGERPRINT else (),
        tlsa=(record,) if level is Level.DANE else (),
        server_name=name,
        trial=trial,
    )


_levels = st.sampled_from([level for level in Level if level is not Level.DANE_ONLY])
_plain = st.builds(_requirement, _levels, st.none(), tlsa, octets, names)
requirements = st.builds(_requirement, _levels, st.none() | barred | _plain, tlsa, octets, names)
policies = st.builds(
    TLSPolicy,
    level=st.sampled_from(Level),
    match=st.lists(names, max_size=2).map(tuple),
    fingerprints=st.lists(octets, max_size=2).map(tuple),
    dane=st.booleans(),
    server_name=names | st.just(""),
)
_times = st.floats(0, 4e9)
sts = st.builds(
    PolicyLookup,
    names,
    st.none() | st.builds(STSPolicy, st.sampled_from(PolicyMode), st.integers(0, 10**7), st.lists(names).map(tuple)),
    texts,
    st.none() | st.builds(CachedPolicy, names, texts, octets, _times, texts, _times),
    st.none() | st.sampled_from(TLSProblem),
)
plans = st.builds(
    DeliveryPlan,
    route=routes,
    policy=st.none() | policies,
    sts=st.none() | sts,
    wish=st.sampled_from(TLSDemand),
    problem=texts,
    requirements=st.dictionaries(endpoints, requirements | barred, max_size=3),
)
"""Any plan at all: also such as no rules would make."""
