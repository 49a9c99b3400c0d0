//! Where settings come from, and what shows them.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use metaq_testkit::Broker;
use serde_json::Value;

/// Runs `metaq` with these variables, and without a file of settings in the home directory.
fn metaq(home: &Path, variables: &[(&str, &str)], args: &[&str]) -> Output {
    let mut metaq = Command::new(env!("CARGO_BIN_EXE_metaq"));
    metaq.args(args).env("HOME", home).env_remove("XDG_CONFIG_HOME").envs(variables.iter().copied());
    metaq.stdin(std::process::Stdio::null());
    metaq.output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    str::from_utf8(bytes).unwrap()
}

/// Returns the value and the origin of a setting as `metaq config show` prints them.
fn shown(output: &Output, name: &str) -> (Value, String) {
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let lines = text(&output.stdout).lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let line = lines.into_iter().find(|line| line["name"] == name).expect("it is shown");
    (line["value"].clone(), line["origin"].as_str().unwrap().to_owned())
}

const FILE: &str = "
    cluster = 'meta://file:1'
    send_timeout = '7s'
    retry.max_attempts = 7
    max_in_flight = 77
    [profiles.near]
    send_timeout = '8s'
    retry.max_attempts = 8
";

#[test]
fn a_setting_comes_from_the_first_place_that_has_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("settings.toml");
    fs::write(&file, FILE).unwrap();
    let path = file.to_str().unwrap();
    let show = ["config", "show", "--origin", "--output", "json"];
    let variables = [("METAQ_RETRY_MAX_ATTEMPTS", "9"), ("METAQ_CONFIG", path)];
    let output =
        metaq(folder.path(), &variables, &[&show[..], &["--profile", "near", "-X", "ordered=true"]].concat());
    for (name, value, origin) in [
        ("cluster", "meta://file:1", format!("file {path}, line 2")),
        ("send_timeout", "8s", format!("profile near, file {path}, line 7")),
        ("retry.max_attempts", "9", "environment METAQ_RETRY_MAX_ATTEMPTS".to_owned()),
        ("max_in_flight", "77", format!("file {path}, line 5")),
        ("ordered", "true", "option -X".to_owned()),
        ("publish_timeout", "10s", "default".to_owned()),
    ] {
        assert_eq!(shown(&output, name), (value.into(), origin), "{name}");
    }
    // The file of the user, and a flag before all.
    fs::create_dir_all(folder.path().join(".config/metaq")).unwrap();
    fs::write(folder.path().join(".config/metaq/config.toml"), FILE).unwrap();
    let output = metaq(folder.path(), &[("METAQ_CLUSTER", "meta://env:1")], &show);
    assert_eq!(shown(&output, "cluster"), ("meta://env:1".into(), "environment METAQ_CLUSTER".to_owned()));
    let output = metaq(
        folder.path(),
        &[("METAQ_CLUSTER", "meta://env:1")],
        &[&show[..], &["-b", "meta://flag:1"]].concat(),
    );
    assert_eq!(shown(&output, "cluster"), ("meta://flag:1".into(), "option --cluster".to_owned()));
    // Where that file can't be, there is none.
    let output = metaq(Path::new("/dev/null"), &[], &show);
    assert_eq!(shown(&output, "send_timeout").1, "default");
    let output = metaq(folder.path(), &[], &["config", "show", "--profile", "near"]);
    assert!(text(&output.stdout).contains("send_timeout = \"8s\"\n"), "{}", text(&output.stdout));
}

#[test]
fn settings_that_can_not_be_used_are_named_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("settings.toml");
    let path = file.to_str().unwrap();
    let produce = ["produce", "-t", "t"];
    for (content, variables, args, said) in [
        ("cluster = ", &[][..], &[][..], "line 1"),
        ("sent_timeout = '1s'", &[], &[], "there is no setting sent_timeout; there are cluster, "),
        ("send_timeout = 'soon'", &[], &[], "send_timeout is \"soon\""),
        ("cluster = [1]", &[], &[], "cluster is neither a text"),
        ("", &[], &["--profile", "far"], "there is no profile far"),
        (
            "",
            &[("METAQ_SEND_TIMEOUT", "soon")],
            &[],
            "environment METAQ_SEND_TIMEOUT: send_timeout is \"soon\"",
        ),
        ("", &[], &["-X", "ordered"], "has no ="),
        ("", &[], &["-X", "order=1"], "option -X: there is no setting order"),
        ("", &[], &["-X", "max_in_flight=x"], "it has to be a whole number"),
        ("", &[], &["-X", "max_in_flight=0"], "max_in_flight"),
        ("", &[], &[], "no cluster is named: use --cluster"),
        ("cluster = 'zk://me:s3cret@h:1'", &[], &[], "...@h:1"),
        ("output = 'loud'\ncluster = 'meta://h:1'", &[], &[], "output is \"loud\""),
        ("", &[], &["--cluster", "zk://h:1", "--zk-auth", "digest:me:s3cret"], "digest:file:PATH"),
        (
            "",
            &[],
            &["--cluster", "zk://h:1", "--zk-auth", "digest:env:NO_SUCH_VARIABLE"],
            "NO_SUCH_VARIABLE is not set",
        ),
        (
            "",
            &[("PLACE", "s3cret")],
            &["--cluster", "zk://h:1", "--zk-auth", "digest:env:PLACE"],
            "doesn't hold USER:PASSWORD",
        ),
        (
            "",
            &[],
            &["--cluster", "zk://h:1", "--etcd-auth", "env:PLACE"],
            "etcd_auth is not for this cluster",
        ),
        ("", &[], &["--cluster", "meta://h:1", "--tls-ca", "ca.pem"], "takes no tls.ca"),
        ("", &[], &["--cluster", "zk://h:1", "--tls-cert", "c.pem"], "tls.cert needs tls.ca"),
        ("", &[], &["--cluster", "zk://h:1", "--tls-ca", "no/ca.pem"], "no/ca.pem can't be read"),
    ] {
        fs::write(&file, content).unwrap();
        let output = metaq(folder.path(), variables, &[&produce[..], &["--config", path], args].concat());
        let stderr = text(&output.stderr);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{content} {args:?}: {stderr}");
        assert!(stderr.contains(said) && !stderr.contains("s3cret"), "{content} {args:?}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
    }
    for variables in [&[("METAQ_CONFIG", "no/such/file")][..], &[("METAQ_CONFIG", "/tmp")]] {
        let output = metaq(folder.path(), variables, &produce);
        assert!(text(&output.stderr).contains("can't be read: "), "{}", text(&output.stderr));
        assert_eq!(output.status.code(), Some(2));
    }
}

#[test]
fn every_error_names_the_origin_of_its_setting() {
    let folder = tempfile::tempdir().unwrap();
    let (file, ca) = (folder.path().join("settings.toml"), folder.path().join("ca.pem"));
    fs::write(&ca, "no certificate").unwrap();
    let (path, ca) = (file.to_str().unwrap(), ca.to_str().unwrap());
    let content = format!(
        "cluster = 'zk://h:1'\n[profiles.loud]\noutput = 'loud'\n[profiles.many]\nmax_in_flight = 0\n\
         [profiles.etcd]\n\n# for etcd\netcd_auth = 'env:SECRET'\n[profiles.tls]\ntls.ca = '{ca}'\n[profiles.list]\n\
         retry.max_attempts = []\n[profiles.wrong]\ncluster = 'h:1'\n[profiles.broker]\nbroker_tls.ca = '{ca}'\n"
    );
    let of_profile = |name: &str, line| format!("profile {name}, file {path}, line {line}: ");
    let list = |content: &str| content.replace("[]", "3");
    for (profile, variables, args, said) in [
        (
            "",
            &[("METAQ_OUTPUT", "loud")][..],
            &[][..],
            "environment METAQ_OUTPUT: output is \"loud\"".to_owned(),
        ),
        (
            "",
            &[("METAQ_OUTPUT", "prometheus")],
            &[],
            "environment METAQ_OUTPUT: output is prometheus".to_owned(),
        ),
        ("", &[("METAQ_MAX_IN_FLIGHT", "0")], &[], "environment METAQ_MAX_IN_FLIGHT: ".to_owned()),
        ("", &[("METAQ_CLUSTER", "h:1")], &[], "environment METAQ_CLUSTER: it is no cluster".to_owned()),
        (
            "",
            &[("METAQ_ZK_AUTH", "digest:env:NONE")],
            &[],
            "environment METAQ_ZK_AUTH: the variable".to_owned(),
        ),
        ("", &[("METAQ_TLS_CA", "no/ca.pem")], &[], "environment METAQ_TLS_CA: ".to_owned()),
        ("", &[("METAQ_TLS_CERT", "c")], &["--tls-ca", ca], "option --tls-ca: ".to_owned()),
        ("", &[("METAQ_BROKER_TLS_CA", ca)], &[], "environment METAQ_BROKER_TLS_CA: ".to_owned()),
        (
            "",
            &[("METAQ_PROFILE", "far")],
            &[],
            "environment METAQ_PROFILE: there is no profile far".to_owned(),
        ),
        ("far", &[], &[], "option --profile: there is no profile far".to_owned()),
        ("loud", &[], &[], of_profile("loud", 3) + "output is"),
        ("many", &[], &[], of_profile("many", 5)),
        ("etcd", &[], &[], of_profile("etcd", 9) + "etcd_auth is not for this cluster"),
        ("tls", &[], &[], of_profile("tls", 11)),
        ("wrong", &[], &[], of_profile("wrong", 15)),
        ("broker", &[], &[], of_profile("broker", 17) + ca),
    ] {
        fs::write(&file, list(&content)).unwrap();
        let profile = if profile.is_empty() { vec![] } else { vec!["--profile", profile] };
        let args = [&["topics", "--config", path], args, &profile[..]].concat();
        let output = metaq(folder.path(), variables, &args);
        let stderr = text(&output.stderr);
        assert_eq!(
            (output.status.code(), stderr.lines().count()),
            (Some(2), 1),
            "{variables:?} {args:?}: {stderr}"
        );
        assert!(stderr.starts_with(&format!("metaq: {said}")), "{variables:?} {args:?}: {stderr}");
    }
    // What is wrong with the file as a whole, and which option or variable names it.
    for (content, variables, args, said) in [
        (&*content, &[("METAQ_CONFIG", path)][..], &[][..], "environment METAQ_CONFIG: the settings in "),
        (&content, &[], &["--config", path], "option --config: the settings in "),
        (&content, &[], &["--config", path], "can't be used: line 13: retry.max_attempts is neither a text"),
        ("\nprofile = 'far'", &[], &["--config", path], "line 2: there is no profile far in "),
        (
            "",
            &[("METAQ_CONFIG", "no/file")],
            &[],
            "environment METAQ_CONFIG: the settings in no/file can't be read",
        ),
    ] {
        fs::write(&file, content).unwrap();
        let output = metaq(folder.path(), variables, &[&["topics"], args].concat());
        let stderr = text(&output.stderr);
        assert_eq!((output.status.code(), stderr.lines().count()), (Some(2), 1), "{said}: {stderr}");
        assert!(stderr.contains(said), "{said}: {stderr}");
    }
}

#[test]
fn secrets_are_not_shown() {
    let folder = tempfile::tempdir().unwrap();
    let show = ["config", "show", "--origin", "--output", "json"];
    for (name, variable, value, expected) in [
        ("zk_auth", "METAQ_ZK_AUTH", "digest:alice:s3cret", "***"),
        ("zk_auth", "METAQ_ZK_AUTH", "digest:file:/etc/a@b/zk", "digest:file:/etc/a@b/zk"),
        ("zk_auth", "METAQ_ZK_AUTH", "digest:env:ZK_SECRET", "digest:env:ZK_SECRET"),
        ("zk_auth", "METAQ_ZK_AUTH", "digest:env:al:s3cret", "***"),
        ("etcd_auth", "METAQ_ETCD_AUTH", "root:s3cret", "***"),
        ("etcd_auth", "METAQ_ETCD_AUTH", "env:ETCD_SECRET", "env:ETCD_SECRET"),
        ("cluster", "METAQ_CLUSTER", "zk://me:s3cret@h:1/meta", "zk://...@h:1/meta"),
        ("cluster", "METAQ_CLUSTER", "me:s3cret@h:1", "...@h:1"),
        ("cluster", "METAQ_CLUSTER", "file:/data/a@b/brokers.toml", "file:/data/a@b/brokers.toml"),
        ("tls.key", "METAQ_TLS_KEY", "/etc/a@b/key.pem", "/etc/a@b/key.pem"),
    ] {
        let output = metaq(folder.path(), &[(variable, value)], &show);
        assert_eq!(shown(&output, name), (expected.into(), format!("environment {variable}")), "{value}");
        assert!(!text(&output.stdout).contains("s3cret"), "{value}");
        let set = format!("{name}={value}");
        let output = metaq(folder.path(), &[], &[&show[..], &["-X", &set]].concat());
        assert_eq!(shown(&output, name).0, expected, "-X {set}");
    }
    for set in ["zk_auth digest:u:s3cret", "zk_auth digest:u:s3cret=", "zk_auth:digest:u:s3cret=1"] {
        let output = metaq(folder.path(), &[], &["config", "show", "-X", "ordered=true", "-X", set]);
        let stderr = text(&output.stderr);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{set}: {stderr}");
        assert!(stderr.contains("-X") && !stderr.contains("s3cret"), "{set}: {stderr}");
    }
}

#[test]
fn table_of_partitions_is_one_setting() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("settings.toml");
    let content =
        "[partitions]\nledger = '0:4; 1:4'\n'a.b' = 'ever-named'\n[profiles.near.partitions]\nx = '2:1'\n";
    fs::write(&file, content).unwrap();
    let show = ["config", "show", "--origin", "--output", "json", "--config", file.to_str().unwrap()];
    let output = metaq(folder.path(), &[], &show);
    let (value, origin) = shown(&output, "partitions");
    let value = value.as_str().unwrap();
    assert!(value.contains("0:4;1:4") && value.contains("a.b") && value.contains("ever-named"), "{value}");
    assert_eq!(origin, format!("file {}, line 1", file.display()));
    let output = metaq(folder.path(), &[], &[&show[..], &["--profile", "near"]].concat());
    let (value, origin) = shown(&output, "partitions");
    assert!(value.as_str().unwrap().contains("2:1"), "{value}");
    assert_eq!(origin, format!("profile near, file {}, line 4", file.display()));
    fs::write(&file, "[partitions]\nledger = 4\n").unwrap();
    let output = metaq(folder.path(), &[], &show);
    assert!(text(&output.stderr).contains("partitions.ledger is not a text"), "{}", text(&output.stderr));
}

#[test]
fn empty_variables_are_not_set_and_unusable_ones_are_named() {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt as _};
    let folder = tempfile::tempdir().unwrap();
    let show = ["config", "show", "--origin", "--output", "json"];
    let names = ["METAQ_CLUSTER", "METAQ_CONFIG", "METAQ_PROFILE", "METAQ_SEND_TIMEOUT", "METAQ_OUTPUT"];
    let output = metaq(folder.path(), &names.map(|name| (name, "")), &show);
    assert_eq!(shown(&output, "cluster"), (Value::Null, "default".to_owned()));
    assert_eq!(shown(&output, "send_timeout").1, "default");
    let output = metaq(folder.path(), &[("METAQ_PROFILE", "staging")], &show);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0));
    let said = "metaq: environment METAQ_PROFILE: there is no profile staging, as there is no file of settings; use --config\n";
    assert_eq!(text(&output.stderr), said);
    for name in ["METAQ_CLUSTER", "METAQ_PROFILE", "METAQ_RETRY_MAX_ATTEMPTS"] {
        let mut metaq = Command::new(env!("CARGO_BIN_EXE_metaq"));
        metaq.args(show).env("HOME", folder.path()).env_remove("XDG_CONFIG_HOME");
        let output = metaq.env(name, OsStr::from_bytes(b"\xff")).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{name}");
        assert_eq!(text(&output.stderr), format!("metaq: environment {name}: it is not UTF-8\n"));
    }
}

#[tokio::test]
async fn prometheus_may_be_asked_for_by_a_setting() {
    let broker = Broker::builder().topic("t", 1).start().await.unwrap();
    let cluster = broker.addr().to_string();
    for (args, status, said) in [
        (&["stats"][..], 0, ""),
        (&["stats", "--watch", "1s"], 2, "leave --watch out"),
        (&["topics"], 2, "is for metaq stats"),
    ] {
        let mut metaq = tokio::process::Command::new(env!("CARGO_BIN_EXE_metaq"));
        metaq.args(args).args(["-b", &cluster]).env("METAQ_OUTPUT", "prometheus");
        let output = metaq.output().await.unwrap();
        let stderr = text(&output.stderr);
        assert_eq!((output.status.code(), stderr.contains(said)), (Some(status), true), "{args:?}: {stderr}");
        assert_eq!(text(&output.stdout).contains("metaq_broker_up{"), status == 0, "{args:?}");
    }
}

#[tokio::test]
async fn a_file_alone_is_enough_to_send() {
    let broker = Broker::builder().topic("t", 1).start().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("settings.toml");
    fs::write(&file, format!("cluster = '{}'\noutput = 'plain'\n", broker.addr())).unwrap();
    let input = folder.path().join("lines");
    fs::write(&input, "1\n").unwrap();
    let args = ["produce", "--config", file.to_str().unwrap(), "-t", "t", input.to_str().unwrap()];
    let home = folder.path().to_owned();
    let args = args.map(str::to_owned);
    let output = tokio::task::spawn_blocking(move || metaq(&home, &[], &args.each_ref().map(String::as_str)));
    let output = output.await.unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(text(&output.stdout).starts_with("1\tstored\t"), "{}", text(&output.stdout));
}

#[test]
fn completions_and_manual_have_every_command() {
    let folder = tempfile::tempdir().unwrap();
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let output = metaq(folder.path(), &[], &["completions", shell]);
        assert_eq!(output.status.code(), Some(0), "{shell}");
        for word in ["produce", "dev-broker", "rejects", "spool-fsync", "set-aside"] {
            assert!(text(&output.stdout).contains(word), "{shell}");
        }
    }
    let output = metaq(folder.path(), &[], &["man"]);
    assert!(output.status.success() && text(&output.stdout).starts_with(".ie"), "{}", text(&output.stdout));
    let pages = folder.path().to_str().unwrap();
    assert_eq!(metaq(folder.path(), &[], &["man", "--folder", pages]).status.code(), Some(0));
    let page = fs::read_to_string(folder.path().join("metaq-produce.1")).unwrap();
    assert!(page.contains("rejects") && page.contains("Exit status"), "{page}");
    let page = fs::read_to_string(folder.path().join("metaq-spool-replay.1")).unwrap();
    assert!(page.contains("set\\-aside") && page.contains("Exit status"), "{page}");
    let output = metaq(folder.path(), &[], &["man", "--folder", "no/such/folder"]);
    assert_eq!(output.status.code(), Some(8));
}
