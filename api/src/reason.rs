//! Reason codes: one word for one cause, wherever it shows.
//!
//! The console, the JSON output, the exit code of the CLI, the metric label, the event and the
//! page `docs/reference/reason-codes.md` (generated from this table, checked by a test) all use
//! the same code. A code is never renamed or reused once released.

use serde::{Deserialize, Serialize};
use std::fmt;

/// How much a reason matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Ordinary; shown so that a person knows what is going on.
    Info,
    /// Works, but somebody should look at it in working hours.
    Warning,
    /// Something that was asked for does not work.
    Error,
}

macro_rules! reasons {
    ($( $variant:ident = $code:literal, $severity:ident, $exit:literal, $sentence:literal, $next:literal; )+) => {
        /// Why something is as it is. The order is the order of the reference page.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Reason { $( #[doc = $sentence] $variant, )+ }

        impl Reason {
            /// Every reason, in the order of the reference page.
            pub const ALL: &'static [Reason] = &[ $( Reason::$variant, )+ ];

            /// The code, such as `token.expired`.
            pub const fn code(self) -> &'static str { match self { $( Reason::$variant => $code, )+ } }
            /// How much it matters.
            pub const fn severity(self) -> Severity { match self { $( Reason::$variant => Severity::$severity, )+ } }
            /// Exit code of a command that ends for this reason, 0 to 125.
            pub const fn exit_code(self) -> u8 { match self { $( Reason::$variant => $exit, )+ } }
            /// What happened, as one sentence.
            pub const fn sentence(self) -> &'static str { match self { $( Reason::$variant => $sentence, )+ } }
            /// What a person can do next.
            pub const fn next_step(self) -> &'static str { match self { $( Reason::$variant => $next, )+ } }
        }
    };
}

// Exit codes by family: 10 configuration, 20 hardware, 30 token, 40 controller and identity,
// 50 network, 60 tunnels, 70 host files, 80 state on disk,
// 90 Kubernetes and its nodes, 100 releases, 110 snapshots.
reasons! {
    ConfigInvalid = "config.invalid", Error, 10, "A configuration file cannot be used.", "Correct the file and line that the message names; the last good configuration stays in force.";
    ConfigMissing = "config.missing", Error, 11, "A setting that is needed is not given anywhere.", "Set it in /etc/holdfast/config.d, or hand it over by cloud-init.";
    HwNoDmi = "hw.no-dmi", Warning, 20, "The machine says nothing about itself: no DMI data was found.", "Check the firmware; the generic profile is used meanwhile.";
    HwFactsUnreadable = "hw.facts-unreadable", Error, 20, "Hardware facts could not be read from /sys or /proc.", "Check that /sys and /proc are mounted.";
    HwNoProfile = "hw.no-profile", Warning, 21, "No profile matches this hardware; the generic one is used.", "Write a profile for it (docs/reference/profiles.md) and put it into /etc/holdfast/profiles.";
    HwAssertionFailed = "hw.assertion-failed", Warning, 22, "The machine is not what its profile promises.", "Compare the named fact with the data sheet; a part may be missing or broken.";
    ProfileInvalid = "profile.invalid", Error, 23, "A hardware profile cannot be used.", "Correct the file and line that the message names.";
    ProfileNicConflict = "profile.nic-conflict", Error, 24, "Two roles of the profile claim the same network port.", "Make the selectors of the two roles disjoint.";
    ProfileTpmMissing = "profile.tpm-missing", Error, 25, "The profile requires a TPM and none was found.", "Switch the TPM on in the firmware setup.";
    HugepagesShort = "hugepages.short", Error, 26, "The kernel gave fewer huge pages than the profile asks for.", "Free memory or reboot with the kernel argument that the message names.";
    HugepagesNeedReboot = "hugepages.need-reboot", Warning, 27, "Huge pages of this size need a kernel argument and a reboot.", "Add the kernel argument that the message names and reboot.";
    HugepagesFloor = "hugepages.floor", Error, 28, "The pool would take memory below the floor that the profile keeps free.", "Lower the demand in the profile or add memory.";
    HugepagesInUse = "hugepages.in-use", Warning, 28, "The pool cannot shrink below the pages that are in use.", "Stop the workload that holds the pages; the manager tries again.";
    HugepagesUnsupported = "hugepages.unsupported", Error, 29, "The kernel has no huge pages of the size that the profile asks for.", "Choose another size in the profile.";
    HugepagesExcess = "hugepages.excess", Warning, 28, "The pool holds more huge pages than the profile asks for.", "Nothing; the manager gives the memory back.";
    HugepagesFailed = "hugepages.failed", Error, 29, "The page pools of the kernel could not be read or changed.", "Check that the manager runs as root and that /sys and /proc are mounted and writable.";
    HugepagesMount = "hugepages.mount", Error, 29, "A hugetlbfs mount is missing or could not be made.", "Check what is mounted at the place that the message names.";
    TokenMissing = "token.missing", Info, 30, "No registration token is known yet.", "Type it on the console, run `holdfast token set`, or hand it over by cloud-init.";
    TokenMistypedGroup = "token.mistyped-group", Error, 31, "A group of the token does not match its check digit.", "Compare the named group with the original and type it again.";
    TokenMalformed = "token.malformed", Error, 31, "This is not a registration token.", "Copy the whole token, all groups of it.";
    TokenVersion = "token.version", Error, 31, "The token is of a version that this firmware does not know.", "Update the firmware or create a token of an older version.";
    TokenExpired = "token.expired", Error, 32, "The token has expired.", "Create a new token on the controller.";
    TokenUsedUp = "token.used-up", Error, 33, "The token has been used as often as it may be.", "Create a new token on the controller.";
    TokenUnknown = "token.unknown", Error, 34, "The controller does not know this token, or its secret is wrong.", "Check that the token was made by this controller; create a new one.";
    TokenForeign = "token.foreign", Error, 34, "The token belongs to another tenant.", "Use a token of the tenant that the device registers with.";
    RegistrationPending = "registration.pending", Info, 35, "The registration waits for an operator's approval.", "Approve it on the controller.";
    RegistrationRejected = "registration.rejected", Error, 36, "An operator rejected the registration.", "Ask the operator; set a new token to register again.";
    RegistrationRetired = "registration.retired", Error, 36, "The node was retired on the controller.", "Reset the node and register it again.";
    ControllerUnreachable = "controller.unreachable", Warning, 40, "The controller does not answer.", "Check the uplink and the controller's address; the node tries again forever and keeps its last good configuration.";
    ControllerWrongCa = "controller.wrong-ca", Error, 41, "The controller's certificate does not come from the CA that the token names; nothing secret was sent.", "Check the controller's address; somebody may be listening in between.";
    ControllerRefused = "controller.refused", Error, 42, "The controller refused the request.", "Read the message of the controller.";
    ControllerProtocol = "controller.protocol", Error, 42, "The controller's answer could not be understood.", "Check that the address is that of a Holdfast controller.";
    IdentityUnusable = "identity.unusable", Error, 43, "The node's key or certificate cannot be read.", "Check /var/lib/holdfast/identity; a factory reset makes a new identity.";
    ClockImplausible = "clock.implausible", Warning, 44, "The clock is wrong; the last known good time is used for certificates.", "Check the clock's battery and that NTP is reachable.";
    NetPermission = "net.permission", Error, 50, "The kernel refused a change of the network for lack of rights.", "Run with CAP_NET_ADMIN.";
    NetUnsupported = "net.unsupported", Error, 51, "The kernel does not have the kind of link that is asked for.", "Load the kernel module that the message names, or choose another kind.";
    NetConflict = "net.conflict", Error, 52, "Something that is not ours has the name or address that is asked for.", "Remove or rename it; Holdfast never changes what it does not own.";
    NetLinkMissing = "net.link-missing", Warning, 53, "A network port that the configuration names is not there.", "Check the cable, the slot and the NIC roles of the profile.";
    NetApplyFailed = "net.apply-failed", Error, 54, "The kernel did not accept a change of the network.", "Read the kernel's answer in the message.";
    NetDhcpFailed = "net.dhcp-failed", Warning, 55, "No DHCP server gave an address.", "Check the cable and the DHCP server; the node tries again forever.";
    NetDrift = "net.drift", Warning, 56, "Somebody changed the network; it was put back.", "Find out who changes what Holdfast manages.";
    NetIpv6Off = "net.ipv6-off", Warning, 57, "IPv6 is off on this machine, and something is to be reached over it, which leads nowhere; the rest is in force.", "Turn it on: net.ipv6.conf.all.disable_ipv6=0, and no ipv6.disable=1 on the kernel's command line; or take the IPv6 prefixes out of the routes.";
    TunnelNoCandidates = "tunnel.no-candidates", Warning, 60, "The controller offers no regional edge.", "Create a RegionalEdge on the controller or check the site's policy.";
    TunnelProbing = "tunnel.probing", Info, 61, "The nearest regional edges are being measured.", "Wait a moment.";
    TunnelNoEdgeAnswers = "tunnel.no-edge-answers", Error, 62, "No regional edge answers probes.", "Check the uplink and whether UDP is blocked; the node tries again forever.";
    TunnelNoData = "tunnel.no-data", Warning, 63, "The tunnel is set up and no data passes.", "Check whether UDP to the edge is filtered.";
    TunnelSingle = "tunnel.single", Warning, 64, "Only one tunnel passes data; there is no redundancy.", "Check the regional edge that is down.";
    TunnelDaemonDown = "tunnel.daemon-down", Error, 65, "tunneld does not answer.", "Look into its log; the manager starts it again.";
    TunnelEngineFailed = "tunnel.engine-failed", Error, 66, "The WireGuard device could not be made.", "Check /dev/net/tun and the rights of tunneld.";
    TunnelConfigInvalid = "tunnel.config-invalid", Error, 67, "The tunnel configuration cannot be used; the last good one stays in force.", "Look at the message; the controller or the manager wrote it.";
    TunnelSharedDomain = "tunnel.shared-domain", Warning, 68, "Two tunnels lead to edges that can go down together; no edge of another failure domain answers.", "Check the regional edges of other failure domains, or add one.";
    TunnelUsualPages = "tunnel.usual-pages", Info, 69, "Packets of a tunnel are in pages of the usual size: the pool had too few free ones of the size that is asked for.", "Put more pages into the pool and start tunneld anew, or ask for the usual ones.";
    HostsMarkersDamaged = "hosts.markers-damaged", Warning, 70, "The marker lines in /etc/hosts were damaged; the block was written anew and nothing else was touched.", "Leave the two marker lines alone.";
    HostsUnwritable = "hosts.unwritable", Error, 71, "/etc/hosts cannot be written.", "Check whether the file system is read-only or full.";
    SshConfigRejected = "ssh.config-rejected", Error, 72, "sshd does not accept the configuration; the last good one stays in force.", "Read what `sshd -t` says in the message.";
    SshBadKey = "ssh.bad-key", Error, 73, "A declared SSH authority is not a public key; the last good set stays in force.", "Correct the key on the controller.";
    SshReloadFailed = "ssh.reload-failed", Warning, 74, "sshd did not reload.", "Look at the state of sshd.";
    SshAbsent = "ssh.absent", Info, 74, "No SSH server is installed; SSH authorities are not configured.", "Nothing, or install the OpenSSH server.";
    SysctlFailed = "host.sysctl-failed", Error, 75, "A kernel setting was not accepted.", "Check the name and value in the message.";
    LedgerDamaged = "ledger.damaged", Warning, 80, "The newest saved configuration was damaged; the last good one is used.", "Nothing; the controller sends it again. Repeated: check the disk.";
    LedgerOlder = "ledger.older-generation", Warning, 81, "A configuration older than the one in force was refused.", "Check whether the controller was restored from an old backup. If what it says now is right, stop holdfastd, remove /var/lib/holdfast/ledger.json and ledger.json.last, and start it again.";
    LedgerConflict = "ledger.same-generation", Error, 81, "A configuration with the number of the one in force and other content was refused.", "Check whether two controllers serve this site.";
    StateDiskFull = "state.disk-full", Error, 82, "The disk is full; the last good state stays on it.", "Free space below /var/lib/holdfast.";
    StateUnwritable = "state.unwritable", Error, 83, "State cannot be written.", "Check whether the file system is read-only or damaged.";
    ManagerUnreachable = "manager.unreachable", Error, 84, "holdfastd does not answer.", "Check `systemctl status holdfastd`.";
    KubernetesAbsent = "kubernetes.absent", Error, 90, "The Kubernetes distribution is not on this machine.", "Install k3s, or name one for the site (spec.kubernetes.distribution).";
    KubernetesStopped = "kubernetes.stopped", Warning, 90, "Kubernetes on this node was stopped by an operator.", "Start it again with `holdfast kube start`.";
    KubernetesStarting = "kubernetes.starting", Info, 90, "Kubernetes is starting.", "Wait a moment.";
    KubernetesConfigRefused = "kubernetes.config-refused", Error, 91, "The distribution refused its configuration; the last good one stays in force.", "Read its answer in the message.";
    KubernetesPortTaken = "kubernetes.port-taken", Error, 91, "A port that Kubernetes needs is taken by another program.", "End the program that the message names, or give it another port.";
    KubernetesDiskFull = "kubernetes.disk-full", Error, 92, "Kubernetes cannot write: the disk is full.", "Free space below /var/lib/rancher.";
    KubernetesCertificateExpired = "kubernetes.certificate-expired", Error, 92, "A certificate of Kubernetes has expired or is not valid yet.", "Check the clock; the distribution renews its certificates when it starts.";
    KubernetesCertificateNotRenewed = "kubernetes.certificate-not-renewed", Warning, 92, "A certificate of Kubernetes ends within 60 days, and a restart did not renew it.", "Run `k3s certificate rotate` on the node, or remove the file when this version does not use it any more.";
    KubernetesDatastoreDamaged = "kubernetes.datastore-damaged", Error, 93, "The datastore of Kubernetes is damaged.", "A single-node site is restored from its newest snapshot; for others replace the node, or run `holdfast kube restore`.";
    KubernetesContainerdDamaged = "kubernetes.containerd-damaged", Error, 93, "The database of containerd is damaged.", "Wait: the manager empties containerd's folder, and images are pulled again. While containers of before run it does not; restart the machine then.";
    KubernetesJoinRefused = "kubernetes.join-refused", Error, 94, "The servers of the site do not let this node join.", "Check that the token and the address of the server are those of the site.";
    KubernetesSecondCluster = "kubernetes.second-cluster", Error, 94, "This node was told to begin a cluster although the site may have one; it begins none.", "Look at the control planes in the site's spec.nodes: when another one has the datastore, replace this node; when none has it, take the others from the site and restore a snapshot.";
    KubernetesServerUnreachable = "kubernetes.server-unreachable", Warning, 94, "The server that this node joins does not answer.", "Check the site's network and the first server; the node tries again forever.";
    KubernetesExited = "kubernetes.exited", Error, 95, "Kubernetes ended; it is started again after a pause.", "Read the last lines of its log in the message.";
    KubernetesNotReady = "kubernetes.not-ready", Error, 95, "Kubernetes runs and is not ready.", "Look at `holdfast kube status`.";
    KubernetesApiUnavailable = "kubernetes.api-unavailable", Warning, 96, "The API server does not answer.", "Wait; the manager tries again.";
    KubernetesForbidden = "kubernetes.forbidden", Error, 96, "The API server refuses the manager.", "Check the kubeconfig of the distribution; a restart writes it anew.";
    KubernetesApiPartAway = "kubernetes.api-part-away", Warning, 96, "A part of the Kubernetes API that a pod answers for is away.", "Look at the APIService of the group that the message names, and at its pods.";
    KubernetesAdmissionRefused = "kubernetes.admission-refused", Error, 96, "A webhook or a policy of the cluster refuses what the manager itself has to write.", "Correct or remove the webhook or policy that the message names; one that a release brought goes when the release is taken back.";
    KubernetesArtifactRejected = "kubernetes.artifact-rejected", Error, 97, "The distribution's program could not be fetched, or is not what the controller promised.", "Check the address and the checksum on the controller.";
    KubernetesUpgradeFailed = "kubernetes.upgrade-failed", Error, 97, "The new version of Kubernetes did not become ready; the old one runs again.", "Read the message; ask for another version, or for the same again by another address (`…#2`).";
    KubernetesFailedElsewhere = "kubernetes.failed-elsewhere", Warning, 97, "The version that is asked for failed on another node of the site; this node keeps its own.", "See what that node says; ask for another version, or for the same again by another address (`…#2`).";
    KubernetesVersionSkipped = "kubernetes.version-skipped", Error, 97, "The version that is asked for skips a minor version of Kubernetes; nothing was touched.", "Ask for each minor version in turn.";
    KubernetesServersFirst = "kubernetes.servers-first", Info, 97, "The servers of the site run an older Kubernetes than this agent is to run, and go first.", "Wait; the agent follows its servers.";
    NodeDrainBlocked = "node.drain-blocked", Warning, 98, "A disruption budget does not let a pod go.", "Wait until its other replicas are ready, or change the budget that the message names.";
    NodeDrainTimeout = "node.drain-timeout", Error, 98, "The node could not be drained in time; it takes workloads again.", "Look at the pods that the message names.";
    NodeRebootLocked = "node.reboot-locked", Info, 99, "Another node of the site is rebooting.", "Wait; one node goes at a time.";
    NodeVanished = "node.vanished", Warning, 99, "A node of the site is gone.", "Switch it on, or replace it.";
    ReleaseInvalid = "release.invalid", Error, 100, "The release cannot be used; nothing was changed.", "Correct the file, document and field that the message names.";
    ReleaseUnavailable = "release.unavailable", Warning, 100, "The release could not be fetched from the controller.", "Check that it exists; the node tries again.";
    ReleaseRefused = "release.refused", Error, 101, "This version failed before and is not tried again.", "Release a corrected version, or ask for this one with a higher `force`.";
    ReleasePreflight = "release.preflight", Warning, 102, "The release waits: a check before it does not hold.", "Read which one in the message; the node tries again.";
    ReleasePrePull = "release.pre-pull", Warning, 103, "Images of the release are not on every node yet.", "Read which image and node in the message; on a node that says nothing, see that holdfastd runs and reaches the controller; pulling goes on.";
    ReleaseImageMissing = "release.image-missing", Error, 103, "An image of the release does not exist.", "Push the image, or correct its name.";
    ReleaseRegistry = "release.registry", Warning, 103, "The registry does not answer, or broke off.", "Check the registry and the way to it; pulling carries on where it was.";
    ReleaseRegistryDenied = "release.registry-denied", Warning, 103, "The registry does not give an image to the site.", "Put a Secret of type kubernetes.io/dockerconfigjson for that registry into the release, or see to the mirror; pulling is tried again.";
    ReleaseLeftover = "release.leftover", Warning, 104, "Something that the release no longer has is still there.", "The node's log says why. A namespace or a definition stays while it holds what is not to be removed with it: remove or move that; the next release tries again.";
    ReleaseApplyRefused = "release.apply-refused", Error, 104, "The API server refused an object of the release.", "Read its answer in the message.";
    ReleaseWebhookRefused = "release.webhook-refused", Error, 104, "A webhook refused an object of the release.", "Read which webhook and why in the message.";
    ReleaseConflict = "release.conflict", Error, 104, "Somebody else owns a field that the release sets.", "Remove the field from the release, or let go of it there.";
    ReleaseTimeout = "release.timeout", Error, 105, "An object of the release did not become ready in time.", "Read what it waits for in the message.";
    ReleaseCrdNotEstablished = "release.crd-not-established", Error, 105, "A custom resource definition was not established.", "Read its conditions in the message; names may conflict.";
    ReleaseRolledBack = "release.rolled-back", Error, 106, "The release failed; the last good one is in force again.", "Read why in the message; release a corrected version.";
    ReleaseRollbackFailed = "release.rollback-failed", Error, 107, "The release failed and the last good one could not be put back whole.", "Look at `holdfast kube releases`; the node tries again.";
    ReleaseRecordUnreadable = "release.record-unreadable", Error, 107, "What the site remembers of its releases cannot be read.", "Release a corrected version; until one is in force nothing is removed. The damaged record is the ConfigMap holdfast-system/holdfast-release.";
    ReleaseOtherManager = "release.other-manager", Info, 108, "Another node of the site applies releases.", "Nothing.";
    PodImagePull = "pod.image-pull", Error, 109, "A pod's image cannot be pulled.", "Check the image's name and the registry.";
    PodOutOfMemory = "pod.out-of-memory", Error, 109, "A container used more memory than it may and was killed.", "Raise its limit, or find the leak.";
    PodCrashing = "pod.crashing", Error, 109, "A container ends again and again.", "Read its log.";
    PodUnschedulable = "pod.unschedulable", Error, 109, "No node has room for a pod.", "Read what is lacking in the message.";
    PodNoHugepages = "pod.no-hugepages", Error, 109, "No node has the huge pages that a pod asks for.", "Compare its demand with the pools of the profile.";
    PodProbeFailing = "pod.probe-failing", Error, 109, "A container runs and its readiness probe fails.", "Read the probe's answer in the message.";
    PodConfigMissing = "pod.config-missing", Error, 109, "A pod needs a ConfigMap, Secret or volume that is not there.", "Add it to the release.";
    PodFailed = "pod.failed", Error, 109, "A pod failed.", "Read its log and the message.";
    SnapshotFailed = "snapshot.failed", Error, 110, "A snapshot could not be taken.", "Read why in the message; the manager tries again.";
    SnapshotDamaged = "snapshot.damaged", Error, 110, "A snapshot cannot be used.", "Take another one; the drill names those that can be restored.";
    SnapshotUpload = "snapshot.upload", Warning, 111, "A snapshot could not be stored away from the node; it is kept here.", "Check the storage's address and keys.";
    SnapshotNoKey = "snapshot.no-key", Warning, 111, "The site has no recovery key; snapshots stay on the node.", "Make a key with `age-keygen` and set spec.kubernetes.snapshots.recoveryKey of the site.";
    SnapshotWrongKey = "snapshot.wrong-key", Error, 112, "The key does not open this snapshot.", "Use the identity that belongs to the site's recovery key.";
    SnapshotOtherToken = "snapshot.other-token", Error, 112, "The snapshot is of a cluster with another token; nothing was touched.", "Give the site the snapshot's token: spec.kubernetes.joinToken, as docs/reference/restore.md says.";
    SnapshotOtherServers = "snapshot.other-servers", Error, 112, "Another server of the site still runs; nothing was touched.", "Stop Kubernetes on the other servers first (`holdfast kube stop` there), or restore with --force.";
    SnapshotRestoreFailed = "snapshot.restore-failed", Error, 113, "A snapshot could not be restored; the datastore is as it was.", "Read why in the message.";
    SnapshotRebootsUnknown = "snapshot.reboots-unknown", Warning, 113, "The datastore was restored; which reboot locks and cordons came with the snapshot is not known, so all stay.", "Break the lock of a node that does not reboot (docs/reference/reboot-lock.md), and uncordon nodes that should take pods.";
    SnapshotDrillFailed = "snapshot.drill-failed", Error, 114, "The newest snapshot could not be restored in a drill.", "Take another snapshot and look at the message.";
    Internal = "internal", Error, 125, "Something failed that should not.", "Please report it with the output of `holdfast -o json status` and the log of the program.";
}

impl Reason {
    /// The reason with this code.
    pub fn from_code(code: &str) -> Option<Reason> {
        Reason::ALL.iter().copied().find(|reason| reason.code() == code)
    }

    /// The anchor on the reference page.
    pub fn anchor(self) -> String {
        format!("docs/reference/reason-codes.md#{}", self.code().replace('.', ""))
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl Serialize for Reason {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.code())
    }
}

impl<'de> Deserialize<'de> for Reason {
    /// A code that a newer peer knows and we do not reads as [`Reason::Internal`].
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let code = String::deserialize(deserializer)?;
        Ok(Reason::from_code(&code).unwrap_or(Reason::Internal))
    }
}

/// The reference page, as Markdown.
pub fn render_reference() -> String {
    let mut page = String::from(
        "# Reason codes\n\nOne word for one cause, wherever it shows: console, `-o json`, exit code, metric label, event.\n\
         This page is generated from `api/src/reason.rs`; a test compares the two.\n",
    );
    for reason in Reason::ALL {
        let severity = match reason.severity() {
            Severity::Info => "info",
            Severity::Warning => "warning",
            Severity::Error => "error",
        };
        page += &format!(
            "\n## {}\n\n{}\n\n* Severity: {severity}\n* Exit code: {}\n* Next step: {}\n",
            reason.code(),
            reason.sentence(),
            reason.exit_code(),
            reason.next_step(),
        );
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn codes_are_unique_and_read_back() {
        let codes: BTreeSet<_> = Reason::ALL.iter().map(|r| r.code()).collect();
        assert_eq!(codes.len(), Reason::ALL.len());
        for reason in Reason::ALL {
            assert_eq!(Reason::from_code(reason.code()), Some(*reason));
            assert!(reason.exit_code() <= 125 && reason.exit_code() > 1, "{reason}");
            assert!(
                reason.sentence().ends_with('.') && reason.next_step().ends_with('.'),
                "{reason}"
            );
        }
    }

    /// `HOLDFAST_BLESS=1 cargo test -p holdfast-api` writes the page anew.
    #[test]
    fn the_reference_page_is_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reference/reason-codes.md");
        let want = render_reference();
        if std::env::var_os("HOLDFAST_BLESS").is_some() {
            use std::io::Write;
            std::fs::File::create(path).and_then(|mut f| f.write_all(want.as_bytes())).unwrap();
        }
        let have = std::fs::read_to_string(path).unwrap_or_default();
        assert!(have == want, "docs/reference/reason-codes.md is stale; run with HOLDFAST_BLESS=1");
    }
}
