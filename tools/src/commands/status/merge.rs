//! One picture out of what several nodes say.
//!
//! A node knows itself exactly and the others by what it heard of them last. So of each replica the
//! answer counts that it gave itself, and of one that was not asked or gave none, what the node in
//! the newest view says, one with a primary before one without. What is of one node only (cores,
//! shards, connections) stays with its answer, in `nodes`.

use serde_json::{Map, Value};

/// Puts answers together; the only one is left as it is.
pub(super) fn merge(mut answers: Vec<Value>) -> Value {
    if answers.len() < 2 {
        return answers.pop().unwrap_or(Value::Null);
    }
    let newest = |answer: &&Value| (answer["view"].as_u64(), answer["primary"].is_u64());
    let base = answers.iter().max_by_key(newest).expect("there are two at least");
    let mut replicas = base["replicas"].as_array().cloned().unwrap_or_default();
    for replica in &mut replicas {
        let own = |answer: &&Value| answer["replica"] == replica["replica"];
        if let Some(exact) = answers.iter().find(own).and_then(own_entry) {
            *replica = exact.clone();
        }
    }
    let primary = base["primary"].as_u64();
    let newest = replicas.iter().filter_map(|replica| replica["commit"].as_u64()).max();
    for replica in &mut replicas {
        let leads = replica["replica"].as_u64() == primary && primary.is_some();
        replica["role"] = if leads { "primary" } else { "backup" }.into();
        if let (Some(newest), Some(commit)) = (newest, replica["commit"].as_u64()) {
            replica["lag"] = (newest - commit).into();
        }
    }
    let normal = replicas.iter().filter(|replica| replica["state"] == "normal").count();
    let faults_tolerated = match primary {
        Some(_) => normal.saturating_sub(replicas.len() / 2 + 1),
        None => 0,
    };
    let mut merged = Map::new();
    for name in ["cluster", "view", "primary", "phase", "version", "compression"] {
        merged.insert(name.to_owned(), base[name].clone());
    }
    merged.insert("faults_tolerated".to_owned(), faults_tolerated.into());
    merged.insert("replicas".to_owned(), replicas.into());
    merged.insert("nodes".to_owned(), answers.into());
    Value::Object(merged)
}

/// What a node says of itself.
fn own_entry(answer: &Value) -> Option<&Value> {
    let replicas = answer["replicas"].as_array()?;
    replicas.iter().find(|replica| replica["replica"] == answer["replica"])
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn answer(of: u64, view: u64, primary: Option<u64>, states: [&str; 3]) -> Value {
        let entry = |(replica, state): (usize, &str)| {
            let commit = if replica as u64 == of { 30 + of } else { 7 };
            json!({ "replica": replica, "state": state, "role": "backup", "commit": commit })
        };
        let replicas: Vec<Value> = states.into_iter().enumerate().map(entry).collect();
        json!({ "replica": of, "cluster": 5, "view": view, "primary": primary,
                "replicas": replicas })
    }

    #[test]
    fn each_replica_is_believed_about_itself() {
        let old = answer(0, 2, None, ["view_change", "down", "down"]);
        let new = answer(2, 3, Some(1), ["down", "normal", "normal"]);
        let merged = merge(vec![old, new]);
        assert_eq!((&merged["view"], &merged["primary"]), (&json!(3), &json!(1)));
        let states: Vec<_> = (0..3).map(|i| merged["replicas"][i]["state"].clone()).collect();
        assert_eq!(states, ["view_change", "normal", "normal"]);
        let commits: Vec<_> = (0..3).map(|i| merged["replicas"][i]["commit"].clone()).collect();
        assert_eq!(commits, [30, 7, 32], "own numbers, and the newest view's of who was not asked");
        assert_eq!(merged["replicas"][0]["lag"], 2);
        assert_eq!(merged["replicas"][1]["role"], "primary");
        assert_eq!(merged["faults_tolerated"], 0);
        assert_eq!(merged["nodes"].as_array().map(Vec::len), Some(2));
    }

    #[test]
    fn one_answer_is_left_as_it_is() {
        let one = answer(0, 2, Some(0), ["normal"; 3]);
        assert_eq!(merge(vec![one.clone()]), one);
    }
}
