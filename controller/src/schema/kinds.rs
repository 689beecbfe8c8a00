//! The kinds, field by field. The words follow the docs of `holdfast_api::resources`.

use super::Schema::{Any, Bool, Enum, Int, List, Map, Object, Text};
use super::{Format, Schema, field, required};
use holdfast_api::resources::Kind;

const TIME: Schema = Schema::Format(Format::Time);
const IP: Schema = Schema::Format(Format::Ip);
const PREFIX: Schema = Schema::Format(Format::Prefix);
const SOCKET: Schema = Schema::Format(Format::Socket);
const KEY: Schema = Schema::Format(Format::WireguardKey);
const U32: Schema = Int(0, u32::MAX as i64);
const U64: Schema = Int(0, i64::MAX);
const ROLE: Schema = Enum(&["Node", "RegionalEdge"]);
const NODE_ROLE: Schema = Enum(&["control-plane", "worker"]);
const TEXTS: Schema = List(&Text);
const TEXT_MAP: Schema = Map(&Text);

const PLACE: Schema = Object(&[
    field("region", &Text, "Region, such as eu-central."),
    field("address", &Text, "Address or description for people."),
]);

const CONDITIONS: Schema = List(&Object(&[
    required("type", &Text, "What is observed."),
    required("status", &Enum(&["True", "False", "Unknown"]), "Whether it is so."),
    field("reason", &Text, "A reason code."),
    field("message", &Text, "For people."),
    field("lastTransitionTime", &TIME, "When status last changed."),
]));

const BFD: Schema = Object(&[
    required("intervalMs", &Int(10, 10_000), "Transmit and receive interval in milliseconds."),
    required("multiplier", &Int(1, 255), "Detection multiplier."),
]);

const HOSTS: Schema = List(&Object(&[
    required("address", &IP, "The address."),
    required("names", &TEXTS, "Its names, the canonical one first."),
]));

const SSH: Schema = Object(&[
    field("authorities", &TEXTS, "CA public keys in authorized_keys form."),
    field("principals", &Map(&TEXTS), "Principals accepted for each local user."),
]);

const MIRRORS: Schema = List(&Object(&[
    required("registry", &Text, "Host of the registry as it stands in image names."),
    required("endpoints", &TEXTS, "URLs, asked in this order before the registry."),
]));

const DISTRIBUTION: Schema = Object(&[
    required("version", &Text, "Version, such as v1.33.1+k3s1."),
    required("url", &Text, "Where the program is: https://… or file:///…"),
    required("sha256", &Text, "SHA-256 of the program, hex."),
]);

const S3: Schema = Object(&[
    required("endpoint", &Text, "https://…, or http:// inside the site."),
    required("bucket", &Text, "Bucket."),
    field("folder", &Text, "Folder in the bucket."),
    field("region", &Text, "Region; us-east-1 when empty."),
    required("accessKeyId", &Text, "Key id."),
    required("secretAccessKey", &Text, "Secret key."),
]);

const SNAPSHOTS: Schema = Object(&[
    field("intervalHours", &Int(1, 168), "Hours between snapshots; 12 when absent."),
    field("keep", &Int(1, 100), "How many are kept, here and in the storage each; 5 when absent."),
    field("s3", &S3, "Storage beside the node's disk."),
    field("recoveryKey", &Text, "An age recipient (age1…); without one nothing leaves the node."),
    field(
        "drillHours",
        &Int(0, 8760),
        "Hours between restore drills; 168 when absent, none when 0.",
    ),
]);

const TOKEN_SPEC: Schema = Object(&[
    field(
        "uses",
        &Int(1, u32::MAX as i64),
        "How many devices may register with it; 1 when absent.",
    ),
    field("expiresAt", &TIME, "When it ends; never when absent."),
    field("role", &ROLE, "What its bearers become."),
    field("approval", &Enum(&["Manual", "Automatic"]), "Who approves: an operator, or nobody."),
    field("site", &Text, "Site that nodes join; a site of its own for each node when absent."),
    field(
        "replaces",
        &Text,
        "Node of that site whose place and role the bearer takes; it is retired then.",
    ),
    field("labels", &TEXT_MAP, "Labels given to the site."),
]);

const TOKEN_STATUS: Schema = Object(&[
    field("id", &Text, "Public part of the token."),
    field("used", &U32, "How many devices have registered with it."),
    field("token", &Text, "The whole token, only in the answer to its creation."),
]);

const FACTS: Schema = Object(&[
    field("vendor", &Text, "DMI system vendor."),
    field("product", &Text, "DMI product name."),
    field("serial", &Text, "DMI product serial."),
    field("profile", &Text, "Hardware profile."),
    field("cpus", &U32, "Logical CPUs."),
    field("memoryBytes", &U64, "Bytes of memory."),
    field("macs", &TEXTS, "MAC addresses of physical ports."),
    field("cloud", &Text, "Cloud provider, when DMI names one."),
]);

const APPROVAL: Schema = Object(&[
    required("decision", &Enum(&["Approved", "Rejected"]), "Yes or no."),
    field("site", &Text, "Name of the site, overriding the token's."),
    field("labels", &TEXT_MAP, "Labels given to the site."),
]);

const EDGE_SPEC: Schema = Object(&[
    field("place", &PLACE, "Where it is."),
    field("failureDomain", &Text, "Edges of one domain go down together."),
    field("endpoint", &SOCKET, "Where WireGuard datagrams go."),
    field("probe", &SOCKET, "Where UDP probes go."),
    field("publicKey", &KEY, "WireGuard key."),
    field(
        "overlayAddress",
        &IP,
        "Address inside the tunnels; given by the controller when absent.",
    ),
    field("backbone", &SOCKET, "Where the other edges reach this one."),
    field("routes", &List(&PREFIX), "What sites reach through this edge."),
    field("capacity", &U32, "Sites it should serve at the most; 0 for no limit."),
    field("drained", &Bool, "Not offered to sites while true."),
]);

const EDGE_STATUS: Schema = Object(&[
    field("peers", &U32, "Nodes that it may serve."),
    field("peersUp", &U32, "Nodes whose tunnel passes data."),
    field("lastSeen", &TIME, "When it last reported; set by the controller."),
    field("conditions", &CONDITIONS, "Details."),
]);

const REGISTRATION_SPEC: Schema = Object(&[
    field("role", &ROLE, "What the device wants to be."),
    field("hostname", &Text, "Its name for itself."),
    required("csr", &Text, "Certificate signing request (PKCS #10, PEM) for the device key."),
    field("wireguardPublicKey", &KEY, "WireGuard key."),
    field("identityClass", &Enum(&["soft", "tpm"]), "Where the device key lives."),
    field("facts", &FACTS, "The hardware."),
    field("edge", &EDGE_SPEC, "What an edge offers."),
    field("tokenId", &Text, "Public part of the token; set by the controller."),
    field("approval", &APPROVAL, "The operator's answer."),
]);

const REGISTRATION_STATUS: Schema = Object(&[
    field(
        "phase",
        &Enum(&["Pending", "Approved", "Admitted", "Online", "Rejected", "Retired"]),
        "How far it got.",
    ),
    field("reason", &Text, "A reason code."),
    field("message", &Text, "For people."),
    field("site", &Text, "Site that the device belongs to."),
    field("node", &Text, "Name of its NodeConfig and NodeStatus, or of its RegionalEdge."),
    field("certificate", &Text, "Client certificate, PEM."),
    field("ca", &Text, "CA certificates to trust, PEM."),
]);

const SITE_SPEC: Schema = Object(&[
    field("place", &PLACE, "Where it is."),
    field(
        "nodes",
        &List(&Object(&[
            required("name", &Text, "Name of the node."),
            required("registration", &Text, "Name of its registration."),
            field("role", &NODE_ROLE, "Its role, decided by the controller."),
            field("address", &IP, "Its address in the site's LAN; given by the controller."),
        ])),
        "Its nodes, in the order they joined.",
    ),
    field("prefix", &PREFIX, "Prefix of the site; given by the controller when absent."),
    field(
        "edges",
        &Object(&[
            field("only", &TEXTS, "Only these edges; all when empty."),
            field("except", &TEXTS, "Never these."),
            field("want", &Int(1, 3), "How many tunnels to hold; 2 when absent."),
            field("bfd", &BFD, "Liveness timers."),
        ]),
        "Which edges it may use.",
    ),
    field("hosts", &HOSTS, "Entries for /etc/hosts on every node."),
    field("ssh", &SSH, "Who may log in."),
    field("sysctls", &TEXT_MAP, "Kernel settings on every node."),
    field(
        "kubernetes",
        &Object(&[
            field("release", &Text, "Name of the Release that it is to run."),
            field("force", &U32, "Raised to try a release again that failed."),
            field(
                "distribution",
                &DISTRIBUTION,
                "The distribution's program; what nodes have when absent.",
            ),
            field("disable", &TEXTS, "Parts of the distribution that are left out."),
            field(
                "joinToken",
                &Text,
                "What nodes join with, to restore another site's snapshots; never shown.",
            ),
            field("labels", &TEXT_MAP, "Labels of every node."),
            field("taints", &TEXTS, "Taints of every node, as key=value:Effect."),
            field("mirrors", &MIRRORS, "Registry mirrors."),
            field("snapshots", &SNAPSHOTS, "Snapshots of the datastore."),
        ]),
        "Its Kubernetes; none when absent.",
    ),
]);

const SITE_STATUS: Schema = Object(&[
    field("phase", &Text, "Pending, Online, Degraded, Offline or Retired."),
    field("nodesOnline", &U32, "Nodes that report themselves online."),
    field("tunnelsUp", &U32, "Tunnels that pass data, of all nodes."),
    field("edges", &TEXTS, "Edges that carry its traffic."),
    field("lastSeen", &TIME, "When a node was last heard."),
    field("conditions", &CONDITIONS, "Details."),
]);

const LINK_MAKE: Schema = Object(&[
    required("kind", &Enum(&["bridge", "vlan", "bond", "veth"]), "What to make."),
    field("parent", &Text, "VLAN: the port below."),
    field("id", &Int(1, 4094), "VLAN: its number."),
    field("mode", &Text, "Bond: active-backup or 802.3ad."),
    field("peer", &Text, "Veth: name of the other end."),
]);

const NETWORK: Schema = Object(&[
    field(
        "links",
        &List(&Object(&[
            field("name", &Text, "Interface name."),
            field("role", &Text, "Role of the port in the hardware profile."),
            field("make", &LINK_MAKE, "What to make; a port that is there when absent."),
            field("addresses", &List(&PREFIX), "Static addresses."),
            field("dhcp", &Bool, "Ask a DHCP server."),
            field("mtu", &U32, "Bytes."),
            field("master", &Text, "Bridge or bond that it belongs to."),
            field("sysctls", &TEXT_MAP, "Settings of the link."),
        ])),
        "Ports and virtual links.",
    ),
    field(
        "routes",
        &List(&Object(&[
            required("prefix", &PREFIX, "Where to."),
            field("via", &IP, "Gateway."),
            field("link", &Text, "Interface name or role."),
            field("metric", &U32, "Priority; lower wins."),
        ])),
        "Static routes in the main table.",
    ),
]);

const TUNNELS: Schema = Object(&[
    required("overlayAddress", &IP, "The node's address inside all of its tunnels."),
    field("sitePrefixes", &List(&PREFIX), "What is behind this node."),
    required("routes", &List(&PREFIX), "What the node reaches through its tunnels."),
    required(
        "candidates",
        &List(&Object(&[
            required("name", &Text, "Name of the RegionalEdge."),
            required("failureDomain", &Text, "Edges of one domain go down together."),
            required("endpoint", &SOCKET, "Where WireGuard datagrams go."),
            required("probe", &SOCKET, "Where UDP probes go."),
            required("publicKey", &KEY, "The edge's WireGuard key."),
            required("overlayAddress", &IP, "The edge's address inside the tunnel."),
        ])),
        "The edges to choose from.",
    ),
    field("bfd", &BFD, "Liveness timers."),
    field("want", &Int(1, 3), "How many tunnels to hold."),
]);

const KUBERNETES: Schema = Object(&[
    field("role", &Enum(&["cluster-init", "server", "agent"]), "How the node takes part."),
    field("server", &Text, "The server to join, https://HOST:6443."),
    field("servers", &List(&IP), "Addresses of all servers of the site."),
    field("token", &Text, "What nodes join with; shown to the node only."),
    field("nodeIp", &IP, "The node's address in the cluster."),
    field("labels", &TEXT_MAP, "Labels of the node."),
    field("taints", &TEXTS, "Taints of the node."),
    field("disable", &TEXTS, "Parts of the distribution that are left out."),
    field("mirrors", &MIRRORS, "Registry mirrors."),
    field("distribution", &DISTRIBUTION, "The distribution's program."),
    field("snapshots", &SNAPSHOTS, "Snapshots of the datastore."),
    field(
        "release",
        &Object(&[
            required("name", &Text, "Name of the Release."),
            field("version", &Text, "Its version."),
            required("digest", &Text, "SHA-256 of its content, hex."),
            field("force", &U32, "Grows when a failed one is to be tried again."),
        ]),
        "What runs on it.",
    ),
    field("nodes", &TEXTS, "Nodes that the site has; others are removed from its Kubernetes."),
    field("retired", &TEXTS, "Nodes that left the site; they are removed at once."),
    field("singleServer", &Bool, "The site has one server and no more."),
]);

const RELEASE_SPEC: Schema = Object(&[
    required("version", &Text, "Version, for people."),
    required("manifests", &TEXT_MAP, "YAML by file name; 768 KiB in all."),
    field("timeoutSecs", &Int(0, 86_400), "Seconds that one object may take; 300 when 0."),
]);

const RELEASE_STATUS: Schema = Object(&[field("digest", &Text, "SHA-256 of the manifests, hex.")]);

const NODE_CONFIG_SPEC: Schema = Object(&[
    field("generation", &U64, "Grows with every change of content."),
    field("site", &Text, "The node's site."),
    field("node", &Text, "The node's name."),
    field("role", &NODE_ROLE, "Its role."),
    field("lanAddresses", &List(&PREFIX), "Its addresses in the site's LAN."),
    field("hosts", &HOSTS, "Our block in /etc/hosts."),
    field("ssh", &SSH, "Who may log in."),
    field("sysctls", &TEXT_MAP, "Kernel settings, over those of the profile."),
    field("network", &NETWORK, "The host's network."),
    field("tunnels", &TUNNELS, "The tunnels."),
    field("kubernetes", &KUBERNETES, "Its part in the site's Kubernetes."),
    field("pollSecs", &U32, "Seconds between polls; 300 when 0."),
]);

const NODE_CONFIG_STATUS: Schema =
    Object(&[field("contentHash", &Text, "SHA-256 of the spec, hex; also its ETag.")]);

const NODE_STATUS_STATUS: Schema = Object(&[
    field("site", &Text, "Its site."),
    field("stage", &Text, "Lifecycle stage."),
    field("generation", &U64, "Generation of the configuration in force."),
    field("profile", &Text, "Hardware profile."),
    field("version", &Text, "Firmware version."),
    field("reason", &Text, "The worst thing to say: a reason code."),
    field("message", &Text, "For people."),
    field("items", &List(&Any), "Per domain."),
    field("tunnels", &Any, "Tunnels."),
    field(
        "kubernetes",
        &Any,
        "Kubernetes: see [what a node says of it](#what-a-node-says-of-kubernetes).",
    ),
    field("reportedAt", &TIME, "The node's clock when it wrote this."),
]);

const TUNNEL_PEER_SPEC: Schema = Object(&[
    field("node", &Text, "The node."),
    field("site", &Text, "Its site."),
    field("publicKey", &KEY, "Its WireGuard key."),
    field("overlayAddress", &IP, "Its address inside the tunnels."),
    field("sitePrefixes", &List(&PREFIX), "What is behind it."),
    field("edges", &TEXTS, "Edges that may serve it."),
    field("bfd", &BFD, "Liveness timers."),
]);

const EMPTY: Schema = Object(&[]);

/// The form of a kind's `spec`.
pub fn spec_of(kind: Kind) -> &'static Schema {
    match kind {
        Kind::Token => &TOKEN_SPEC,
        Kind::Registration => &REGISTRATION_SPEC,
        Kind::Site => &SITE_SPEC,
        Kind::NodeConfig => &NODE_CONFIG_SPEC,
        Kind::NodeStatus => &EMPTY,
        Kind::RegionalEdge => &EDGE_SPEC,
        Kind::Release => &RELEASE_SPEC,
        Kind::TunnelPeer => &TUNNEL_PEER_SPEC,
    }
}

/// The form of a kind's `status`.
pub fn status_of(kind: Kind) -> &'static Schema {
    match kind {
        Kind::Token => &TOKEN_STATUS,
        Kind::Registration => &REGISTRATION_STATUS,
        Kind::Site => &SITE_STATUS,
        Kind::NodeConfig => &NODE_CONFIG_STATUS,
        Kind::NodeStatus => &NODE_STATUS_STATUS,
        Kind::RegionalEdge => &EDGE_STATUS,
        Kind::Release => &RELEASE_STATUS,
        Kind::TunnelPeer => &EMPTY,
    }
}

/// What a kind is for, in one line.
pub fn doc_of(kind: Kind) -> &'static str {
    match kind {
        Kind::Token => "The right to register.",
        Kind::Registration => "A device asks to become a node or a regional edge.",
        Kind::Site => "One customer edge, made of one node or a few.",
        Kind::NodeConfig => "The rendered desired state of one node.",
        Kind::NodeStatus => "What a node reports of itself.",
        Kind::RegionalEdge => "A point of presence that ends tunnels.",
        Kind::Release => "A set of manifests that sites bring onto their Kubernetes.",
        Kind::TunnelPeer => "What an edge must know of a node to end its tunnel.",
    }
}
