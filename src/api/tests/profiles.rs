use serde_json::json;

use super::{Answer, Node, in_party};

async fn ask(node: &Node, method: &str, path: &str, body: Option<&str>) -> Answer {
    node.send(method, path, &node.headers(body), body.unwrap_or_default()).await
}

const MINE: &str = "id = \"mine\"\nname = \"Mine\"\n[[process]]\nexe = \"openttd\"\n";

#[actix_web::test]
async fn own_profiles_are_checked_written_and_deleted() {
    let node = in_party();
    let body = |text: &str| json!({ "toml": text }).to_string();
    let all = ask(&node, "GET", "/api/v1/profiles", None).await;
    assert_eq!((all.status, &all.body["problems"]), (200, &json!([])));
    let built_in = all.body["profiles"].as_array().unwrap().len();
    assert!(built_in >= 60 && all.body["profiles"][0]["origin"] == "builtin", "{}", all.body["profiles"][0]);

    let put = ask(&node, "PUT", "/api/v1/profiles/mine", Some(&body(MINE))).await;
    assert_eq!((put.status, &put.body["profile"]["name"]), (200, &json!("Mine")), "{}", put.body);
    assert!(
        put.body["warnings"][0].as_str().unwrap().contains("also fits the built-in profile openttd"),
        "{}",
        put.body
    );
    assert_eq!(std::fs::read_to_string(node.dir.join("profiles/mine.toml")).unwrap(), MINE);
    let all = ask(&node, "GET", "/api/v1/profiles", None).await;
    assert_eq!(all.body["profiles"].as_array().unwrap().len(), built_in + 1);
    assert_eq!(
        (&all.body["profiles"][0]["id"], &all.body["profiles"][0]["origin"]),
        (&json!("mine"), &json!("custom"))
    );

    // What is wrong is refused with line and reason, and what is there stays.
    let bad = ask(&node, "PUT", "/api/v1/profiles/mine", Some(&body("id = \"mine\"\nname = 5\n"))).await;
    assert_eq!((bad.status, bad.code()), (400, "bad_profile"));
    assert!(bad.body["error"]["message"].as_str().unwrap().contains("line 2: name: must be a text"), "{}", bad.body);
    for (path, text, code) in [
        ("/api/v1/profiles/other", MINE, "bad_profile"),
        ("/api/v1/profiles/..%2fmine", MINE, "bad_request"),
        ("/api/v1/profiles/Mine", MINE, "bad_request"),
    ] {
        let bad = ask(&node, "PUT", path, Some(&body(text))).await;
        assert_eq!((bad.status, bad.code()), (400, code), "{path}");
    }
    assert_eq!(ask(&node, "PUT", "/api/v1/profiles/mine", Some("{\"text\": \"\"}")).await.status, 400);
    assert_eq!(std::fs::read_to_string(node.dir.join("profiles/mine.toml")).unwrap(), MINE);

    // A file that somebody drops there is seen at once, a bad one is named.
    std::fs::write(node.dir.join("profiles/bad.toml"), "id = 5\n").unwrap();
    let all = ask(&node, "GET", "/api/v1/profiles", None).await;
    assert_eq!(all.body["problems"][0]["line"], 1, "{}", all.body["problems"]);

    let deleted = ask(&node, "DELETE", "/api/v1/profiles/mine", Some("")).await;
    assert_eq!((deleted.status, &deleted.body["builtin"]), (200, &json!(false)), "{}", deleted.body);
    assert!(!node.dir.join("profiles/mine.toml").exists());
    for (id, words) in [("mine", "there is no profile"), ("openttd", "built in")] {
        let refused = ask(&node, "DELETE", &format!("/api/v1/profiles/{id}"), Some("")).await;
        assert_eq!((refused.status, refused.code()), (404, "unknown_profile"));
        assert!(refused.body["error"]["message"].as_str().unwrap().contains(words), "{}", refused.body);
    }
}
