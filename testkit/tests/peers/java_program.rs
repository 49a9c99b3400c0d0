//! A test's own Java program, which uses the Java client.

use std::process::Command;

use metaq_testkit::peers::{PeerError, Peers};

const SOURCE: &str = "\
public class Shout {
    public static void main(String[] args) throws Exception {
        byte[] payload = args[0].toUpperCase().getBytes(\"UTF-8\");
        System.out.println(new String(new com.taobao.metamorphosis.Message(\"t\", payload).getData(), \"UTF-8\"));
    }
}
";

#[test]
fn a_java_program_compiles_against_the_client_and_runs() {
    let Some(peers) = Peers::get("a_java_program_compiles_against_the_client_and_runs") else { return };
    let home = tempfile::tempdir().unwrap();
    // The second call finds it compiled.
    for word in ["hello", "again"] {
        let args = peers.java_program("Shout", SOURCE).unwrap().arguments(home.path()).unwrap();
        let output =
            Command::new("java").arg("-Xmx64m").args(args).arg(word).current_dir(home.path()).output();
        let output = output.unwrap();
        let printed = String::from_utf8(output.stdout).unwrap();
        assert_eq!(printed.trim(), word.to_uppercase(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn a_source_that_fails_to_compile_returns_the_compiler_output() {
    let Some(peers) = Peers::get("a_source_that_fails_to_compile_returns_the_compiler_output") else {
        return;
    };
    let error = peers.java_program("Bad", "public class Bad { int x = nowhere; }").unwrap_err();
    assert!(matches!(error, PeerError::Tool { .. }), "{error}");
    let text = error.to_string();
    assert!(text.starts_with("compiling Bad with javac failed") && text.contains("nowhere"), "{text}");
}
