//! What is made of what members say, case by case.

use super::*;
use vsr::replica::Counters;

fn other(replica: u8, view: u32, commit: u64) -> OtherReport {
    let (up, heard_ms_ago) = (true, Some(40));
    OtherReport { replica, up, heard_ms_ago, view, op: commit + 1, commit, checkpoint: 2 }
}

/// Replica 1 of three, a backup of replica 0.
fn report() -> ReplicaReport {
    ReplicaReport {
        replica: 1,
        replicas: 3,
        state: "normal",
        primary: Some(0),
        others: vec![other(0, 3, 20), other(2, 3, 15)],
        writes: 2,
        forwarded: 7,
        read_rounds: 9,
        counters: Counters { views_left: 4, ..Counters::default() },
        blocked_by: None,
        view: 3,
        op: 20,
        commit: 18,
        checkpoint: 4,
        log_time_ns: 7,
    }
}

fn cluster(report: &ReplicaReport) -> Cluster {
    let resp = "127.0.0.1:6400".parse().unwrap();
    let identity = Identity { cluster: 1, replica: 1, resp, compression: String::new() };
    Cluster::new(&identity, report, None)
}

fn states(cluster: &Cluster) -> Vec<&str> {
    cluster.members.iter().map(|member| member.state).collect()
}

#[test]
fn a_whole_cluster_can_lose_one() {
    let cluster = cluster(&report());
    assert_eq!(states(&cluster), ["normal"; 3]);
    assert_eq!((cluster.primary, cluster.faults_tolerated), (Some(0), 1));
    let members: Vec<_> = cluster.members.iter().map(|m| (m.replica, m.role, m.lag)).collect();
    assert_eq!(members, [(0, "primary", 0), (1, "backup", 2), (2, "backup", 5)]);
}

#[test]
fn who_is_not_heard_is_down_and_who_is_behind_does_not_count() {
    let mut report = report();
    report.others[1].up = false;
    let without_one = cluster(&report);
    assert_eq!(states(&without_one), ["normal", "normal", "down"]);
    assert_eq!((without_one.primary, without_one.faults_tolerated), (Some(0), 0));
    report.others[1] = other(2, 2, 15);
    let with_a_late_one = cluster(&report);
    assert_eq!(states(&with_a_late_one), ["normal", "normal", "recovering"]);
    assert_eq!(with_a_late_one.faults_tolerated, 0);
}

#[test]
fn without_a_primary_nobody_is_normal() {
    let mut report = report();
    report.others[0].up = false;
    let cluster = cluster(&report);
    assert_eq!(states(&cluster), ["down", "view_change", "view_change"]);
    assert_eq!((cluster.primary, cluster.faults_tolerated), (None, 0));
}

#[test]
fn others_have_their_series() {
    let text = crate::metrics::text::write(&Default::default(), &gauges(&report()));
    for line in [
        "quorate_peer_lag_ops{peer=\"2\"} 5",
        "quorate_peer_up{peer=\"0\"} 1",
        "quorate_view_changes_total 4",
        "quorate_writes_gate 2",
        "quorate_is_primary 0",
        "# TYPE quorate_forwards_total counter",
    ] {
        assert!(text.lines().any(|other| other == line), "{line} is not in {text}");
    }
}
