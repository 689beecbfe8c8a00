use super::*;
use crate::places::Places;

fn server(files: &[(&str, &str)], arguments: &[&str]) -> Result<Options, ConfigError> {
    let dir = tempfile::tempdir().unwrap();
    let main = dir.path().join("config.yaml");
    for (name, text) in files {
        holdfast_durable::write(&dir.path().join(name), text.as_bytes(), 0o644).unwrap();
    }
    let arguments: Vec<String> = arguments.iter().map(|one| (*one).to_owned()).collect();
    read(Role::Server, &arguments, &main)
}

#[test]
fn later_files_replace_and_the_command_line_adds() {
    let files = [
        ("config.yaml", "token: a\nnode-label: [x=1, y=2]\ncluster-init: true\n"),
        ("config.yaml.d/10-a.yaml", "token: b\nnode-label+: [z=3]\nnode-taint: [k=v:NoSchedule]\n"),
        ("config.yaml.d/20-b.yaml", "node-taint: w=v:NoExecute\nwrite-kubeconfig-mode: 644\n"),
        ("config.yaml.d/30-c.txt", "nonsense: 1\n"),
    ];
    let options = server(&files, &["--token=c", "--node-label", "q=4"]).unwrap();
    assert_eq!(options["token"], ["c"]);
    assert_eq!(options["node-label"], ["x=1", "y=2", "z=3", "q=4"]);
    assert_eq!(options["node-taint"], ["w=v:NoExecute"]);
    assert_eq!(options["write-kubeconfig-mode"], ["644"]);
    let settings = Settings::of(Role::Server, options, &Places::default(), "Box").unwrap();
    assert_eq!((settings.kubeconfig_mode, settings.node_name.as_str()), (0o644, "box"));
    assert!(settings.has_etcd);
}

#[test]
fn unknown_keys_are_refused_by_name() {
    match server(&[("config.yaml", "node-lable: [a=b]\n")], &[]) {
        Err(ConfigError::Unknown { origin, name }) => {
            assert_eq!(name, "node-lable");
            assert!(origin.ends_with("config.yaml"), "{origin}");
        }
        other => panic!("{other:?}"),
    }
    assert!(
        matches!(server(&[], &["--toke", "x"]), Err(ConfigError::Unknown { name, .. }) if name == "toke")
    );
    assert!(matches!(
        server(&[("config.yaml", "cluster-init: [1]\n")], &[]),
        Err(ConfigError::Value { .. })
    ));
    assert!(matches!(server(&[], &["--config=/nowhere/at/all"]), Err(ConfigError::Read { .. })));
}

#[test]
fn agents_take_no_options_of_servers_and_need_a_server() {
    let typed = |words: &[&str]| {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        read(Role::Both, &words, Path::new("/nowhere"))
    };
    assert!(
        matches!(typed(&["--cluster-init"]), Err(ConfigError::NotForAgents { name, .. }) if name == "cluster-init")
    );
    let options = typed(&["--token=x"]).unwrap();
    let missing = Settings::of(Role::Both, options, &Places::default(), "a").unwrap_err();
    assert!(matches!(missing, ConfigError::Missing("server")));
}

#[test]
fn a_reset_joins_nobody() {
    let joins = [("config.yaml", "server: https://10.0.0.1:6443\ntoken: a\n")];
    let settings = |typed: &[&str]| {
        let options = server(&joins, typed).unwrap();
        Settings::of(Role::Server, options, &Places::default(), "a")
    };
    assert!(settings(&[]).unwrap().has_etcd);
    let refused = settings(&["--cluster-reset"]).unwrap_err();
    assert!(matches!(refused, ConfigError::ResetJoins), "{refused}");
    let alone = settings(&["--cluster-reset", "--server="]).unwrap();
    assert_eq!((alone.server, alone.reset), (None, true));
}

#[test]
fn the_table_is_sorted_and_names_are_unique() {
    assert!(KEYS.windows(2).all(|pair| pair[0].name < pair[1].name));
}
