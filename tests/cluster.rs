//! Three nodes of the built binary: one store.

mod support;

use std::time::{Duration, Instant};

use client::Reply;
use support::cluster::Cluster;

/// Small directories.
const SMALL: &[&str] = &["--journal-size", "128MiB", "--shards", "2"];

fn bulk(text: &str) -> Reply {
    Reply::Bulk(text.as_bytes().to_vec())
}

fn ok() -> Reply {
    Reply::Simple("OK".to_owned())
}

#[test]
fn every_member_takes_writes_and_sees_all_of_them() {
    let mut cluster = Cluster::format(SMALL);
    cluster.start_all();
    for writer in 0..3 {
        for round in 0..20 {
            let (key, value) = (format!("key-{writer}"), format!("value-{round}"));
            assert_eq!(cluster.call(writer, &["SET", &key, &value]), ok());
            for reader in 0..3 {
                let read = cluster.call(reader, &["GET", &key]);
                assert_eq!(read, bulk(&value), "written at {writer}, read at {reader}");
            }
        }
    }
    let large = "x".repeat(600_000);
    for writer in 0..3 {
        assert_eq!(cluster.call(writer, &["SET", "large", &large]), ok());
        let replaced = cluster.call(writer, &["SET", "large", &large, "GET"]);
        assert_eq!(replaced, bulk(&large));
        assert_eq!(cluster.call((writer + 1) % 3, &["GET", "large"]), bulk(&large));
        for count in 1..=5 {
            let count = i64::from(count + 5 * writer as i32);
            assert_eq!(cluster.call(writer, &["INCR", "counter"]), Reply::Integer(count));
        }
    }
    assert_eq!(cluster.call(2, &["FLUSHALL"]), ok());
    assert_eq!(cluster.call(1, &["DBSIZE"]), Reply::Integer(0));
    (0..3).for_each(|index| cluster.signal(index, "TERM"));
    for index in 0..3 {
        assert!(cluster.ended(index), "member {index} stops in good order\n{}", cluster.logs());
    }
}

/// What a backup's clients are owed may be more than a message holds. It was done, which is seen by
/// whoever reads; the connection that cannot be told is closed, and no other.
#[test]
fn an_answer_too_large_to_be_passed_on_closes_its_connection_only() {
    let mut cluster = Cluster::format(SMALL);
    cluster.start_all();
    let backup = (cluster.primary() + 1) % 3;
    let large = "x".repeat(600_000);
    let keys = ["a", "b", "c", "d"];
    for key in keys {
        assert_eq!(cluster.call(backup, &["SET", key, &large]), ok());
    }
    let mut connection = cluster.connect(backup).unwrap();
    for key in keys {
        connection.send(&["GETDEL", key]);
    }
    connection.flush().unwrap();
    let told = (0..keys.len()).take_while(|_| connection.receive().is_ok()).count();
    assert!(told < keys.len(), "all fits a message: the test has to ask for more");
    for key in keys {
        assert_eq!(cluster.call(backup, &["GET", key]), Reply::Nil);
    }
    let since = Instant::now();
    assert_eq!(cluster.call(backup, &["SET", "e", "f"]), ok());
    assert!(since.elapsed() < Duration::from_secs(1), "{:?}", since.elapsed());
}

#[test]
fn what_was_acknowledged_survives_the_primary() {
    let mut cluster = Cluster::format(SMALL);
    cluster.start_all();
    for round in 0..4 {
        let value = format!("round-{round}");
        let killed = cluster.primary();
        for key in 0..50 {
            assert_eq!(cluster.call(killed, &["SET", &format!("key-{key}"), &value]), ok());
        }
        cluster.kill(killed);
        let since = Instant::now();
        let other = (killed + 1) % 3;
        assert_eq!(cluster.call(other, &["SET", "after", &value]), ok());
        let elapsed = since.elapsed();
        println!("round {round}: writes flow again {elapsed:?} after the primary was killed");
        assert!(elapsed < Duration::from_secs(5), "{elapsed:?}\n{}", cluster.logs());
        for reader in [other, (killed + 2) % 3] {
            for key in 0..50 {
                assert_eq!(cluster.call(reader, &["GET", &format!("key-{key}")]), bulk(&value));
            }
        }
        cluster.start(killed);
        cluster.wait_serving(killed);
        assert_eq!(cluster.call(killed, &["GET", "after"]), bulk(&value));
    }
}

#[test]
fn one_member_alone_says_nothing_and_a_second_one_is_enough() {
    let mut cluster = Cluster::format(SMALL);
    cluster.start(1);
    cluster.wait_for("member 1 listens", || cluster.connect(1).is_some());
    let reply = cluster.connect(1).unwrap().call(&["SET", "a", "b"]).unwrap();
    assert!(matches!(&reply, Reply::Error(text) if text.starts_with("LOADING")), "{reply:?}");
    cluster.start(2);
    assert_eq!(cluster.call(1, &["SET", "a", "b"]), ok());
    cluster.kill(2);
    let mut alone = cluster.connect(1).unwrap();
    // It may have been on its way when the other one died; then nobody can say.
    let reply = alone.call(&["SET", "a", "c"]);
    let refused = |text: &str| text.starts_with("TRYAGAIN");
    assert!(matches!(&reply, Ok(Reply::Error(text)) if refused(text)) || reply.is_err());
    let reply = cluster.connect(1).unwrap().call(&["GET", "a"]).unwrap();
    assert!(matches!(&reply, Reply::Error(text) if refused(text)), "{reply:?}");
    cluster.signal(1, "TERM");
    assert!(cluster.ended(1), "it stops alone too\n{}", cluster.logs());
}

#[test]
fn the_status_shows_the_whole_cluster() {
    let mut cluster = Cluster::format(SMALL);
    cluster.start_all();
    assert_eq!(cluster.call(0, &["SET", "a", "b"]), ok());
    let addresses: Vec<String> = cluster.members.iter().map(|m| m.http.clone()).collect();
    let states = |status: &serde_json::Value| -> Vec<String> {
        let replicas = status["replicas"].as_array().unwrap().iter();
        replicas.map(|replica| replica["state"].as_str().unwrap().to_owned()).collect()
    };
    cluster.wait_for("each sees all", || {
        addresses.iter().all(|address| {
            let status = support::status(&[address]);
            states(&status) == ["normal"; 3] && status["faults_tolerated"] == 1
        })
    });
    let killed = cluster.primary();
    cluster.kill(killed);
    let asked: Vec<&String> = addresses.iter().collect();
    cluster.wait_for("the two that are left have a primary", || {
        let status = support::status(&asked);
        let primary = status["primary"].as_u64();
        let lost = states(&status)[killed] == "down";
        lost && primary.is_some_and(|primary| primary != killed as u64)
            && status["faults_tolerated"] == 0
    });
    let left = (killed + 1) % 3;
    cluster.kill((killed + 2) % 3);
    cluster.wait_for("the last one knows that it is", || {
        let status = support::status(&asked);
        status["primary"].is_null() && states(&status)[left] == "view_change"
    });
}
