"""Every knob, with its default and its reason, as frozen dataclasses. Doesn't know how they are given."""

from __future__ import annotations

from dataclasses import dataclass, field

from swarm.config.knob import knob
from swarm.types import DTYPES, QUANTIZATIONS, Address, LayerSpan

TOOL_FORMATS = ("hermes", "qwen3_coder", "llama3_json", "mistral", "harmony", "json")
MIB = 1024 * 1024
LOG_LEVELS = ("error", "warning", "info", "debug")


@dataclass(frozen=True, slots=True)
class NodeSettings:
    name: str = knob("", "What people call this node in listings; default: the host's name.", flag="name")
    labels: tuple[str, ...] = knob(
        (), "Words that requests can choose this node by (`swarm.trust`), such as `home`.", flag="label"
    )
    listen: Address = knob(
        Address("0.0.0.0", 7410),
        "Where other nodes reach this one; port 0 takes a free one.",
        flag="listen",
        host="0.0.0.0",
    )
    advertise: tuple[Address, ...] = knob(
        (), "Addresses to tell others instead of those of this host's interfaces.", flag="advertise"
    )
    bootstrap: tuple[Address, ...] = knob((), "Members to join by; none starts a swarm.", flag="bootstrap")
    discover: bool = knob(
        False,
        "Find the swarm's other nodes on the local network by mDNS, and be found; links are as authenticated as ever.",
        flag="discover",
    )
    state: str = knob(
        "",
        "Folder for the node key, the swarm secret and the incarnation; default: the platform's.",
        flag="state",
    )
    swarm_key_file: str = knob(
        "",
        "File with the swarm secret (64 hex digits a line; the first is preferred).",
        flag="swarm_key_file",
    )
    allow: tuple[str, ...] = knob((), "Node ids that may take part; empty allows every member.", flag="allow")
    ban: tuple[str, ...] = knob((), "Node ids that may not.", flag="ban")
    log_level: str = knob("info", "How much is logged.", flag="log_level", choices=LOG_LEVELS)
    log_format: str = knob(
        "text",
        "How: lines to read, or one JSON object a line.",
        flag="log_format",
        choices=("text", "json"),
    )


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """One of several models, with layers of its own."""

    name: str
    layers: LayerSpan | str | None = None
    """None: as the setting ``layers`` says."""

    def __str__(self) -> str:
        return self.name if self.layers is None else f"{self.name} {self.layers}"


@dataclass(frozen=True, slots=True)
class ModelSettings:
    model: tuple[str | ModelChoice, ...] = knob(
        (),
        "Hugging Face id (`NAME@DIGEST` for certain weights) or local folder; default: what the swarm serves. "
        "Several models share the memory by what each needs. In a file, `[[models]]` tables have a `name`, and "
        "`layers` of their own.",
        flag="model",
    )
    serve: tuple[str, ...] = knob(
        (),
        "Models of the swarm whose ends this node's front door fetches at once, not on first use.",
        flag="serve",
    )
    pins: tuple[str, ...] = knob(
        (),
        "NAME@DIGEST: which weights a name means, where the swarm has several under it. NAME@DIGEST:ROOT, as "
        "`swarm models verify` prints it, also proves each chunk that members give.",
    )
    layers: LayerSpan | str = knob(
        "auto", "A:B (half open), none (only the model's ends), or auto.", flag="layers"
    )
    dtype: str = knob(
        "auto",
        "What is computed in; auto: the checkpoint's where the device computes it natively, else float32.",
        flag="dtype",
        choices=("auto", *DTYPES),
    )
    quantize: str = knob(
        "none",
        "Hold the layers' weights in 8 or 4 bits: less memory, a little less exact. Nodes of one path may differ.",
        flag="quantize",
        choices=QUANTIZATIONS,
    )
    device: str = knob("auto", "auto, cpu, cuda, cuda:N or mps.", flag="device")
    private_layers: str = knob(
        "",
        "K or K:M, the first K and last M layers that this node's front door computes itself.",
        flag="private_layers",
    )


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key with a name and limits of its own; the key itself is not kept."""

    name: str
    sha256: bytes = field(repr=False)
    """32 bytes: of the key as UTF-8."""
    max_concurrent: int | None = None
    """None: ``max_concurrent_per_key``."""
    requests_per_minute: int | None = None


@dataclass(frozen=True, slots=True)
class ApiSettings:
    listen: Address | None = knob(
        None, "Where the OpenAI-compatible API listens; none: no front door.", flag="api", host="127.0.0.1"
    )
    keys: tuple[str | ApiKey, ...] = knob(
        (),
        "API keys; empty accepts every key, on loopback only. A list of texts, or `[[api.keys]]` tables: `name`, "
        "`key` or its `sha256` (hex), `max_concurrent`, `requests_per_minute`.",
        flag="api_key",
        secret=True,
    )
    key_file: str = knob("", "File with one API key a line.", flag="api_key_file")
    open: bool = knob(False, "Allow a front door without keys on more than loopback.", flag="api_open")
    hosts: tuple[str, ...] = knob((), "Further names accepted in the Host header.")
    origins: tuple[str, ...] = knob((), "Web origins allowed to call the API (CORS); none by default.")
    max_body_bytes: int = knob(4 * MIB, "Larger request bodies are answered 413.")
    max_concurrent_per_key: int = knob(256, "More requests of one key at once are answered 429.")
    tool_parser: str = knob(
        "auto",
        "How function calls are written in the models' text; auto: as the chat template teaches.",
        choices=("auto", *TOOL_FORMATS),
    )
    buffer_tools: bool = knob(
        False,
        "With tools, /v1/responses streams nothing before the answer is whole (the specification's letter).",
    )
    parallel_tool_calls: bool = knob(
        False, "Let /v1/responses answer with several calls where a request allows it; else with one at most."
    )
    unsupported_tools: str = knob(
        "refuse",
        "Hosted and custom tools in a request: answered 400, or left out of it.",
        choices=("refuse", "ignore"),
    )
    default_max_tokens: int = knob(1000, "Tokens generated when a request names no limit.")
    queue_seconds: float = knob(10.0, "How long a request waits for room before it is answered 429.")
    max_waiting: int = knob(256, "More requests waiting for room at once are answered 429 without waiting.")
    max_connections: int = knob(1024, "More connections to the API at once are answered 503 and closed.")
    send_buffer_bytes: int = knob(
        0, "What the kernel holds of an answer for a client that reads slowly; 0: the system's default."
    )
    request_seconds: float = knob(600.0, "A request's deadline when it names none.")
    keepalive_seconds: float = knob(5.0, "Silence on a stream after which a comment line is sent.")
    stalled_reader_seconds: float = knob(30.0, "A client that reads nothing for that long is cut.")


@dataclass(frozen=True, slots=True)
class EngineSettings:
    threads: int = knob(0, "Compute threads; 0: the physical cores.", flag="threads")
    memory_bytes: int = knob(
        0,
        "What this node may use in all, for weights, KV cache and overhead (on a GPU: of the GPU's memory); "
        "0: what is free when it starts, less a tenth.",
        flag="memory",
    )
    kv_bytes: int = knob(
        0,
        "Budget of the KV cache; 0: what weights and overhead leave of --memory, or without that setting "
        "a quarter of the free memory, 2 GiB at most.",
    )
    token_budget: int = knob(512, "Rows one forward pass may have: decode tokens first, then prefill chunks.")
    prefill_chunk: int = knob(256, "Tokens of a prompt sent as one step.")
    prefill_window: int = knob(4, "Such steps of one prompt under way at once, so that all hops work on it.")
    second_copy_bytes: int = knob(
        512 * MIB,
        "Weights of up to so many bytes are also kept in the form that answers few streams fastest, "
        "on CPUs that are no slower with it; 0: never.",
    )
    huge_pages: bool = knob(
        True, "Move weights in a CPU's memory to huge pages once they are loaded (Linux): steps are faster."
    )
    block_tokens: int = knob(16, "KV is reserved in blocks of so many tokens.")
    prefix_share: float = knob(
        0.5,
        "Part of the KV budget that ended sequences may keep for later prompts that begin alike; 0 keeps none.",
    )
    max_sessions_per_origin: int = knob(64, "Sessions one origin may hold open here.")
    max_origin_kv_share: float = knob(
        0.5, "Part of the KV budget one other origin may reserve; more only while nobody else needs it."
    )


@dataclass(frozen=True, slots=True)
class NetSettings:
    handshake_seconds: float = knob(5.0, "From accept to READY; later connections are dropped.")
    max_unauthenticated: int = knob(
        32, "Connections not yet authenticated; one is dropped, or awaited, when full."
    )
    max_unauthenticated_per_address: int = knob(8, "The same, for one address.")
    accepts_per_second: float = knob(10.0, "Connections one address may open a second.")
    accept_burst: int = knob(64, "Connections one address may open at once before the rate counts.")
    part_bytes: int = knob(
        64 * 1024, "Larger payloads travel in parts of this size, so that heartbeats pass."
    )
    credit_bytes: int = knob(1 * MIB, "Prefill bytes a peer may have under way to this node.")
    send_queue_bytes: int = knob(64 * MIB, "More waiting for one peer breaks the link.")
    dial_seconds: float = knob(5.0, "How long one connection attempt may take.")
    dial_from: str = knob(
        "", "The address of this machine that connections to peers leave from; empty: the system chooses."
    )


@dataclass(frozen=True, slots=True)
class WeightsSettings:
    share: bool = knob(True, "Give other members the weights that this node has.", flag="share_weights")
    rate_bytes: int = knob(
        0, "Most bytes of weights a second given to others, and asked of them; 0: no limit."
    )
    busy_rate_bytes: int = knob(16 * MIB, "The same while answers pass through this node; 0: no limit.")
    stall_seconds: float = knob(60.0, "How long weights that no reachable member has are waited for.")
    whole_files: bool = knob(
        False,
        "Fetch every file whole that something is needed of: the model's digest proves whole files, while parts of "
        "one rest on what members say of it.",
    )


@dataclass(frozen=True, slots=True)
class GossipSettings:
    heartbeat_seconds: float = knob(0.25, "Between heartbeats on a link.")
    suspect_min_seconds: float = knob(1.0, "Shortest silence that makes a link suspect.")
    suspect_max_seconds: float = knob(3.0, "Longest silence that does.")
    check_peers: int = knob(3, "Neighbours asked for an indirect check.")
    check_seconds: float = knob(0.75, "How long an indirect check may take.")
    refute_seconds: float = knob(3.0, "Time a suspected member has to refute; longer above 32 members.")
    load_min_seconds: float = knob(2.0, "Shortest pause between load records.")
    load_max_seconds: float = knob(10.0, "Longest pause between load records.")
    stale_seconds: float = knob(30.0, "A member whose load record stands still that long gets no sessions.")
    sync_seconds: float = knob(10.0, "Between anti-entropy exchanges with a random neighbour.")
    tombstone_seconds: float = knob(86400.0, "How long the dead are remembered.")
    max_members: int = knob(4096, "Members one view holds.")
    new_members_per_minute: int = knob(100, "New ids one link may bring a minute.")
    mesh_members: int = knob(40, "Up to this size every member links to every other.")


@dataclass(frozen=True, slots=True)
class SessionSettings:
    lease_seconds: float = knob(12.0, "A hop frees a session's KV that long after the origin's last word.")
    renew_seconds: float = knob(3.0, "How often an origin renews its sessions.")
    open_seconds: float = knob(3.0, "How long hops may take to answer OpenSession.")
    step_min_seconds: float = knob(1.0, "Shortest deadline of a step.")
    step_factor: float = knob(4.0, "A step's deadline: that many times its predicted duration.")
    reserve_tokens: int = knob(256, "KV reserved ahead of an answer's current end.")
    hold_seconds: float = knob(
        4.0,
        "How long a begun answer that is not streamed waits for a lost span before it is answered 503; "
        "a stream waits until its deadline.",
    )
    draft_tokens: int = knob(
        7, "Most tokens guessed ahead by prompt lookup and checked in one step; 0 switches that off."
    )
    recovery: str = knob(
        "replay",
        "replay: after a fault only lost layers compute again; prefill: all do (to compare, or to rule replay out).",
        choices=("replay", "prefill"),
    )
    output_log_bytes: int = knob(
        256 * MIB,
        "Memory for what this node sent on to next hops, kept to refill a hop that takes a lost one's place; the "
        "longest answer's gives way when it is used up, and is then refilled from its beginning.",
    )
    drain_seconds: float = knob(
        25.0, "How long a node that was told to stop lets answers end or move away; a second signal ends it."
    )
    shun_seconds: float = knob(30.0, "How long a failed edge or node is avoided; doubles each time.")


@dataclass(frozen=True, slots=True)
class Config:
    """All settings of one process. Sections are TOML tables of the same names."""

    node: NodeSettings = field(default_factory=NodeSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    api: ApiSettings = field(default_factory=ApiSettings)
    engine: EngineSettings = field(default_factory=EngineSettings)
    net: NetSettings = field(default_factory=NetSettings)
    weights: WeightsSettings = field(default_factory=WeightsSettings)
    gossip: GossipSettings = field(default_factory=GossipSettings)
    session: SessionSettings = field(default_factory=SessionSettings)
