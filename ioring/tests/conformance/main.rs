//! One suite, both drivers: what the code above may rely on, it may rely on everywhere.
//!
//! Every case runs under `sim` with several seeds and under `uring` on the real kernel. A case is
//! written against the public API and a [`Host`], which says where to put files and starts cores.
//! Where the environment has no io_uring, or lacks something that one case needs, the case is
//! skipped and says so on standard error; with `QUORATE_NO_SKIPS` set a skip is a failure.

#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "helpers of tests, skips are loud")]

mod files;
mod host;
mod mesh;
mod sockets;
mod tasks;

/// Makes two tests of each case.
macro_rules! on_both_drivers {
    ($($module:ident: $($case:ident)*;)*) => {
        mod simulated {
            $($(
                #[test]
                fn $case() {
                    for seed in 0..crate::host::SEEDS {
                        crate::$module::$case(&crate::host::Simulated { seed });
                    }
                }
            )*)*
        }

        mod on_uring {
            $($(
                #[test]
                fn $case() {
                    if let Some(host) = crate::host::Real::new(stringify!($case)) {
                        crate::$module::$case(&host);
                    }
                }
            )*)*
        }
    };
}

on_both_drivers! {
    files:
        what_was_written_is_read_back
        reading_beyond_the_end_is_an_error
        buffered_files_take_any_offset_and_length
        direct_files_refuse_what_is_not_aligned
        wrong_modes_and_paths_are_named
        space_is_allocated_discarded_and_cut
        a_rename_replaces_and_open_files_stay
        directories_are_listed_in_order_and_removed_whole
        a_lock_excludes_until_its_file_is_closed
        a_buffer_of_a_dropped_read_comes_back
        a_dropped_write_keeps_its_bytes_until_it_is_done
        more_operations_than_a_ring_holds
        a_sync_follows_writes_of_other_tasks;
    sockets:
        bytes_go_both_ways_in_order
        half_a_connection_can_be_closed
        the_end_of_a_stream_stays_the_end
        nobody_listens
        many_connections_at_once
        a_slow_reader_bounds_memory_and_loses_nothing
        shared_bytes_are_sent_in_order
        a_dropped_receive_loses_nothing
        a_dropped_accept_loses_no_connection
        a_paused_connection_goes_on
        two_tasks_share_a_connection;
    mesh:
        a_lane_keeps_order_and_wakes_both_ends
        a_full_lane_refuses_and_waits
        a_closed_lane_is_emptied_first
        sending_to_nobody_gives_the_item_back
        many_items_are_received_at_once
        buffers_return_to_their_pool_from_another_core;
    tasks:
        timers_fire_in_order_of_their_deadlines
        a_timeout_drops_what_it_waited_for
        a_dropped_timer_does_not_fire
        tasks_that_yield_take_turns
        a_cancelled_task_is_dropped_and_a_detached_one_runs
        events_keep_one_notification
        slots_are_given_in_order
        an_exhausted_pool_makes_takers_wait_in_order
        a_oneshot_tells_when_its_sender_is_gone
        a_bounded_queue_passes_everything_on
        every_core_knows_its_number_and_the_time
        random_streams_are_apart_by_purpose;
}
