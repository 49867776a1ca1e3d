"""The guards that scripts/teeth.py takes away: what each is, where it stands, and the tests that must miss it."""

from __future__ import annotations

from dataclasses import dataclass

HOP = "swarm/sessions/hop.py"
HOP_TESTS = "tests/unit/sessions/test_hop.py"
ORIGIN_TESTS = "tests/unit/sessions/test_origin.py"
GARBAGE_TESTS = "tests/unit/sessions/test_garbage.py"
MOVE_TESTS = "tests/unit/sessions/test_moves.py"
ADMISSION = "swarm/api/admission.py"
ADMISSION_TESTS = "tests/integration/test_api_admission.py"
REFUSALS = "tests/integration/test_api_refusals.py"
HANDSHAKE_TESTS = "tests/unit/protocol/test_handshake.py"


@dataclass(frozen=True)
class Guard:
    """``text`` stands once in ``file``; with ``without`` in its place the guard is gone."""

    name: str
    file: str
    text: str
    without: str
    tests: tuple[str, ...]


GUARDS = (
    Guard(
        "a step of another epoch is dropped",
        HOP,
        '        if message.epoch != session.epoch:\n            return Drop("old_epoch" if message.epoch',
        '        if False:\n            return Drop("old_epoch" if message.epoch',
        (f"{HOP_TESTS}::test_frames_of_another_epoch_do_nothing",),
    ),
    Guard(
        "a step that was seen is not computed again",
        HOP,
        "if message.step < session.next_step:",
        "if False:",
        (f"{HOP_TESTS}::test_a_repeated_step_is_answered_from_what_is_held_and_never_runs_twice",),
    ),
    Guard(
        "a step after a gap is not computed",
        HOP,
        "if message.step > session.next_step:",
        "if False:",
        (f"{HOP_TESTS}::test_a_missing_step_is_asked_for",),
    ),
    Guard(
        "a step beyond the KV is refused",
        HOP,
        "        if message.position > session.length:\n            raise",
        "        if False:\n            raise",
        (f"{HOP_TESTS}::test_a_step_beyond_the_kv_length_breaks_the_link",),
    ),
    Guard(
        "a step comes from the hop before",
        HOP,
        '        if sender != session.upstream:\n            raise ProtocolError("Step from a node that is not the hop '
        'before")\n        if message.step',
        "        if message.step",
        (f"{HOP_TESTS}::test_a_step_comes_from_the_hop_before_or_breaks_the_link",),
    ),
    Guard(
        "a session is opened by its origin",
        HOP,
        '        if sender != message.origin:\n            raise ProtocolError("OpenSession',
        '        if False:\n            raise ProtocolError("OpenSession',
        (f"{HOP_TESTS}::test_only_the_origin_opens_its_sessions",),
    ),
    Guard(
        "a session is closed by its origin",
        HOP,
        '        if sender != message.origin:\n            raise ProtocolError("CloseSession',
        '        if False:\n            raise ProtocolError("CloseSession',
        (f"{HOP_TESTS}::test_only_the_origin_closes_and_renews",),
    ),
    Guard(
        "a replay is asked for by the origin",
        HOP,
        '        if sender != message.origin:\n            raise ProtocolError("Replay',
        '        if False:\n            raise ProtocolError("Replay',
        (f"{HOP_TESTS}::test_only_the_origin_has_something_replayed",),
    ),
    Guard(
        "a session meant for an earlier start of this node is refused",
        HOP,
        "if hop.node != self.node or hop.boot != self._boot:",
        "if hop.node != self.node:",
        (f"{HOP_TESTS}::test_an_open_session_for_another_start_of_this_node_is_refused",),
    ),
    Guard(
        "a lease ends",
        HOP,
        "if s.lease_until <= now]",
        "if False]",
        (f"{HOP_TESTS}::test_a_renewed_lease_lasts_a_whole_lease_from_then",),
    ),
    Guard(
        "the sessions of one origin are counted",
        HOP,
        ">= self._max_per_origin:",
        "< 0:",
        (f"{HOP_TESTS}::test_one_origin_holds_no_more_sessions_than_its_share",),
    ),
    Guard(
        "the steps of one session that wait are counted",
        HOP,
        "if len(session.pending) >= MAX_PENDING_STEPS:",
        "if False:",
        (f"{HOP_TESTS}::test_a_flood_of_steps_breaks_the_link",),
    ),
    Guard(
        "who has more than its share takes nobody's room",
        "swarm/sessions/room.py",
        "    within = origin == own or",
        "    within = True or",
        ("tests/unit/sessions/test_room.py::test_who_has_more_than_its_share_takes_nobodys_room",),
    ),
    Guard(
        "an output is accepted once",
        "swarm/sessions/leg.py",
        'return "" if message.step == self.window.expected else "output_of_other_step"',
        'return ""',
        ("tests/unit/sessions/test_outputs.py::test_an_output_that_comes_again_is_not_sampled_again",),
    ),
    Guard(
        "an output of another epoch is dropped",
        "swarm/sessions/leg.py",
        "if message.epoch != self.epoch or not self.window:",
        "if not self.window:",
        ("tests/unit/sessions/test_outputs.py::test_an_output_of_an_old_epoch_is_not_sampled",),
    ),
    Guard(
        "an output comes from the last hop",
        "swarm/sessions/leg.py",
        '        if sender != self.last:\n            return "output_of_stranger"\n',
        "",
        ("tests/unit/sessions/test_outputs.py::test_an_output_of_a_stranger_is_not_sampled",),
    ),
    Guard(
        "the deadline ends a request",
        "swarm/sessions/origin.py",
        "        if now >= self.request.deadline:",
        "        if False:",
        (f"{ORIGIN_TESTS}::test_without_a_holder_until_the_deadline_the_answer_ends_with_an_error",),
    ),
    Guard(
        "a request that kills its hops ends",
        "swarm/sessions/search.py",
        "return self._fruitless > MAX_FRUITLESS_RECOVERIES",
        "return False",
        (f"{ORIGIN_TESTS}::test_a_path_that_fails_again_and_again_ends_the_request_and_not_the_swarm",),
    ),
    Guard(
        "NaN fails the step",
        "swarm/engine/core.py",
        "if not finite and not bool(torch.isfinite(rows).all()):",
        "if False:",
        ("tests/unit/engine/test_worker.py::test_nan_fails_its_own_sequence_only",),
    ),
    Guard(
        "a payload has the size its header says",
        "swarm/engine/tensors.py",
        "if rows < 1 or size != wanted:",
        "if False:",
        (
            "tests/unit/engine/test_worker.py::test_a_step_of_the_wrong_size_or_place_fails_and_the_sequence_goes_on",
        ),
    ),
    Guard(
        "the KV budget is a bound",
        "swarm/engine/kv_pool.py",
        "if wanted - before > free:",
        "if False:",
        ("tests/unit/engine/test_kv_pool.py::test_a_reservation_that_does_not_fit_changes_nothing",),
    ),
    Guard(
        "a draining hop takes no new session",
        "swarm/node/stage_service.py",
        "if self.draining and not decision.known:",
        "if False:",
        ("tests/unit/node/test_stage_service.py::test_a_draining_hop_takes_no_new_session",),
    ),
    Guard(
        "more than may wait at the door are refused",
        ADMISSION,
        "if self.waiting >= self._max_waiting and not self._displace(place.scope):",
        "if False:",
        (f"{ADMISSION_TESTS}::test_more_than_may_wait_are_refused_at_once",),
    ),
    Guard(
        "nobody waits at the door for ever",
        ADMISSION,
        "async with asyncio.timeout_at(until):",
        "async with asyncio.timeout_at(None):",
        (f"{ADMISSION_TESTS}::test_newcomers_wait_while_an_answer_that_has_begun_lacks_room",),
    ),
    Guard(
        "newcomers leave room to answers that lost theirs",
        ADMISSION,
        "            if self._starving():",
        "            if False:",
        (f"{ADMISSION_TESTS}::test_newcomers_wait_while_an_answer_that_has_begun_lacks_room",),
    ),
    Guard(
        "keys have equal shares",
        "swarm/api/line.py",
        "key=lambda scope: (self._holds(scope), self._let_in[scope])",
        "key=lambda scope: 0",
        ("tests/unit/api/test_line.py::test_a_key_that_asks_for_more_at_once_gets_no_more_than_others",),
    ),
    Guard(
        "a key is compared",
        "swarm/api/guards.py",
        "if match is None or not any(equal):",
        "if match is None:",
        (f"{REFUSALS}::test_keys_come_from_a_file_too",),
    ),
    Guard(
        "a foreign Host is refused",
        "swarm/api/guards.py",
        "if len(values) == 1 and (match := _HOST.match(values[0])):",
        "if values:\n            return values[0]\n        if len(values) == 1 and (match := _HOST.match(values[0])):",
        ("tests/unit/api/test_guards.py",),
    ),
    Guard(
        "a client that reads nothing is cut",
        "swarm/api/edge.py",
        "async with asyncio.timeout(self._stalled_seconds):",
        "async with asyncio.timeout(None):",
        (
            "tests/integration/test_api_chat.py::test_a_client_that_stops_reading_is_cut_and_its_generation_freed",
        ),
    ),
    Guard(
        "AUTH is bound to this handshake's challenge",
        "swarm/protocol/handshake_frames.py",
        "lp(_PROTOCOL) + lp(challenge) + lp(auth)",
        "lp(_PROTOCOL) + lp(auth)",
        (f"{HANDSHAKE_TESTS}::test_a_replayed_auth_is_refused",),
    ),
    Guard(
        "AUTH is bound to the certificate that the client saw",
        "swarm/protocol/handshake_frames.py",
        " + lp(auth) + lp(certificate))",
        " + lp(auth))",
        (f"{HANDSHAKE_TESTS}::test_a_man_in_the_middle_with_a_certificate_of_its_own_is_refused",),
    ),
    Guard(
        "a record is signed by its subject",
        "swarm/gossip/table.py",
        "if not any(verify_record(key, swarm_id, signed) for swarm_id in self._swarm_ids):",
        "if False:",
        ("tests/unit/gossip/test_merge.py::test_a_bad_static_record_is_refused_and_changes_nothing",),
    ),
    Guard(
        "a claim is signed by its signer",
        "swarm/gossip/detector.py",
        "if not any(verify_claim(key, swarm_id, signed) for swarm_id in core.accepted_swarm_ids):",
        "if False:",
        ("tests/unit/gossip/test_membership.py::test_a_forged_claim_closes_the_link",),
    ),
    Guard(
        "tombstones keep the dead dead",
        "swarm/gossip/table.py",
        "if e.gone and now - e.verdict_at >= after_seconds]",
        "if e.gone]",
        ("tests/unit/gossip/test_membership.py::test_the_gone_are_forgotten_after_a_day",),
    ),
    Guard(
        "an older record replaces none",
        "swarm/gossip/table.py",
        "return (record.incarnation, record.sequence) < held.version[:2]",
        "return False",
        (
            "tests/unit/gossip/test_merge.py::test_the_view_depends_on_the_set_of_records_only",
            "tests/sim/test_attackers.py::test_stale_records_change_nothing",
        ),
    ),
    Guard(
        "who is late itself is no witness",
        "swarm/gossip/detector.py",
        "        if self._core.late(now):",
        "        if False:",
        (
            "tests/unit/gossip/test_membership.py::"
            "test_a_failed_dial_is_a_reason_to_doubt_only_for_who_is_on_time_itself",
        ),
    ),
    Guard(
        "handshakes under way are not pushed out by newcomers",
        "swarm/net/gate.py",
        "        return max(0.0, since + YOUNG_SECONDS - now)",
        "        return 0.0",
        (
            "tests/unit/net/test_gate.py::"
            "test_a_newcomer_waits_for_those_who_have_hardly_begun_and_for_nobody_longer",
        ),
    ),
    Guard(
        "dials under way are counted",
        "swarm/gossip/dialing.py",
        "            elif free > 0 and self._ready(attempts, now):",
        "            elif self._ready(attempts, now):",
        (
            "tests/unit/gossip/test_dialing.py::test_a_few_members_are_dialled_at_once_and_more_as_links_come_up",
        ),
    ),
    Guard(
        "a case without an end is looked into",
        "swarm/gossip/detector.py",
        "        elif case.is_stuck(now, period):",
        "        elif False:",
        (
            "tests/unit/gossip/test_membership.py::"
            "test_in_an_overlay_a_case_that_comes_to_no_end_is_looked_into",
        ),
    ),
    Guard(
        "a swarm that forms is not meshed first",
        "swarm/gossip/overlay.py",
        "        if self.partial or now - self._grown_at >= GROWING_SECONDS:",
        "        if True:",
        (
            "tests/unit/gossip/test_membership.py::"
            "test_while_the_swarm_grows_no_more_links_are_opened_than_a_large_one_has",
        ),
    ),
    Guard(
        "who answered at a bootstrap address counts before its record is known",
        "swarm/gossip/dialing.py",
        "        there = living.keys() | self._linked",
        "        there = living.keys()",
        (
            "tests/unit/gossip/test_dialing.py::"
            "test_a_bootstrap_address_is_not_dialled_again_while_whom_it_led_to_is_linked",
        ),
    ),
    Guard(
        "an exchange of digests goes on until it brings no news",
        "swarm/gossip/exchange.py",
        "        return ended and self._learned",
        "        return False",
        (
            "tests/unit/gossip/test_membership.py::"
            "test_an_exchange_of_digests_that_brought_news_is_followed_by_another_soon",
        ),
    ),
    Guard(
        "a client that is cut is told",
        "swarm/api/edge.py",
        "            plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)",
        "            linger",
        (
            "tests/integration/test_api_chat.py::test_a_client_that_stops_reading_is_cut_and_its_generation_freed",
        ),
    ),
    Guard(
        "bulk data goes against credits",
        "swarm/net/link.py",
        "        if left < 0:",
        "        if False:",
        ("tests/unit/net/test_link.py::test_a_peer_that_sends_more_than_its_credit_is_malformed",),
    ),
    Guard(
        "parts of weights are proven by the chunk root",
        "swarm/node/listing.py",
        "            if self.chunks.root(roots) == known:",
        "            if self.chunks.root(roots):",
        (
            "tests/integration/test_transfer.py::test_where_no_member_fits_the_chunk_root_only_whole_files_count",
            "tests/integration/test_transfer.py::test_a_chunk_root_proves_every_chunk_of_a_part_whatever_members_say",
        ),
    ),
    Guard(
        "a chunk of weights is checked",
        "swarm/models/partial.py",
        "if hashlib.sha256(data).digest() != entry_of(self.table, chunk):",
        "if False:",
        (
            "tests/integration/test_transfer.py::test_a_member_that_sends_wrong_bytes_is_named_and_another_asked",
        ),
    ),
    Guard(
        "what waits for one peer is bounded",
        "swarm/net/link.py",
        "if self._queue.queued_bytes > self._settings.send_queue_bytes:",
        "if False:",
        ("tests/unit/net/test_link.py::test_too_much_waiting_breaks_the_link",),
    ),
    Guard(
        "a step has times of the hops it passed only",
        HOP,
        "if len(message.times) > session.place:",
        "if False:",
        (f"{HOP_TESTS}::test_a_step_says_no_more_times_than_it_passed_hops_or_breaks_the_link",),
    ),
    Guard(
        "what a node may not send itself ends nothing",
        "swarm/node/bus.py",
        "                except ProtocolError as exc:",
        "                except KeyError as exc:",
        (
            "tests/unit/node/test_bus.py::test_what_may_not_be_sent_to_oneself_is_dropped_and_what_follows_it_is_not",
        ),
    ),
    Guard(
        "lengths that a hop says it has are checked",
        "swarm/sessions/leg.py",
        "            0 <= message.floor <= length\n",
        "            True\n",
        (f"{GARBAGE_TESTS}::test_an_opened_that_can_not_be_breaks_the_link",),
    ),
    Guard(
        "an output has the size and the times that were asked for",
        "swarm/sessions/stepper.py",
        "message.dtype == dtype and told",
        "message.dtype == dtype",
        (f"{GARBAGE_TESTS}::test_times_of_more_hops_than_there_are_are_garbage_too",),
    ),
    Guard(
        "garbage is blamed on who made it",
        "swarm/sessions/refusals.py",
        'if message.code == "bad_tensor" and other is not None and',
        "if False and other is not None and",
        (f"{GARBAGE_TESTS}::test_who_got_garbage_is_not_left_for_it",),
    ),
    Guard(
        "who accuses one neighbour after the other is left itself",
        "swarm/sessions/search.py",
        "if accuser in self._accusers:",
        "if False:",
        (f"{GARBAGE_TESTS}::test_a_hop_that_accuses_one_neighbour_after_the_other_is_left_itself",),
    ),
    Guard(
        "a gap in a log is believed a few times",
        "swarm/sessions/origin.py",
        'elif message.code == "log_gap" and not self._search.afresh:',
        'elif message.code == "log_gap":',
        (f"{GARBAGE_TESTS}::test_a_hop_with_a_gap_whatever_it_is_asked_for_is_left",),
    ),
    Guard(
        "no hop is opened where another of its node is at work",
        "swarm/sessions/mover.py",
        "or self._in_the_way(path, old.path):",
        "or False:",
        (
            f"{MOVE_TESTS}::test_a_hop_whose_node_now_holds_more_from_the_same_layer_on_is_not_opened_beside_itself",
            f"{MOVE_TESTS}::test_a_hop_that_comes_to_anothers_place_on_its_node_is_not_opened_beside_it",
        ),
    ),
    Guard(
        "a row that can't be sampled takes nothing back",
        "swarm/engine/sampling.py",
        "            if not tokens:\n                raise\n            break",
        "            raise",
        (
            "tests/unit/engine/test_sampling.py::test_a_bad_row_behind_a_draft_that_came_true_takes_nothing_back",
        ),
    ),
)
