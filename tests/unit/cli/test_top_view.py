"""What `swarm top` makes of a node's state, without any terminal."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.cli.top import picture, view
from swarm.types import LayerSpan
from tests.support.node_state import DIGEST, OTHER_DIGEST, THREE, TWO, member, node_state, served, session


def words(line: view.Line) -> str:
    return "".join(cell.text for cell in line)


def columns(table: view.Table, *names: str) -> list[tuple[str, ...]]:
    places = [table.columns.index(name) for name in names]
    return [tuple(row.cells[place].text for place in places) for row in table.rows]


def toned(line: view.Line, tone: str) -> str:
    return "".join(cell.text for cell in line if cell.tone == tone)


def test_the_title_says_who_this_node_is():
    assert (
        words(view.title(node_state()))
        == "desk oneaaaaa  ready  2 members  1000 of 2048 MiB  API 127.0.0.1:8000"
    )


def test_members_are_listed_with_this_node_first_and_what_is_wrong_with_them():
    shown = view.network(node_state(), 80)
    assert columns(shown, "node", "name", "state", "RTT ms", "layers") == [
        ("oneaaaaa*", "desk", "ready", "", "0:10/30"),
        ("sixccccc", "attic", "suspect", "0.8", "20:30/30"),
        ("twobbbbb", "rack", "ready", "0.8", "10:30/30, 0:4/8"),
    ]
    assert "protocol" not in shown.columns
    assert "protocol" in view.network(node_state(), 120).columns
    assert all(len(row.cells) == len(shown.columns) for row in shown.rows)


def test_a_member_is_described_with_its_links_and_what_it_means_to_hold():
    rack = node_state()["members"][0] | {"intended": [{"model": "org/model", "layers": "0:5"}]}
    lines = view.member_details(node_state(members=[*node_state()["members"][1:], rack]), TWO)
    text = "\n".join(map(words, lines))
    assert "desk  0.8 ms" in text
    assert "attic  unreachable" in text
    assert "hold 0:5 of org/model" in text
    assert "protocol 1, may use 2048 MiB" in text
    assert view.member_details(node_state(), "nobody") == []


def test_models_say_whether_they_can_be_served_and_what_this_node_does_about_them():
    coming = {
        "model": "org/new",
        "digest": "f" * 64,
        "of": 4,
        "told": "0:2",
        "layers": [],
        "doing": "loading layers 0:2",
    }
    state = node_state(holding=[*node_state()["holding"], coming])
    assert columns(view.models(state), "model", "served", "held here", "told", "doing") == [
        ("org/model", "all 30 layers", "0:10", "auto", ""),
        ("org/other", "lacks 4:8", "none", "", ""),
        ("org/new", "not served yet", "none", "0:2", "loading layers 0:2"),
    ]
    assert view.models(state).rows[1].key == f"org/other@{OTHER_DIGEST[:12]}"


def test_two_weights_of_one_name_have_keys_that_a_node_understands():
    state = node_state(
        models=[served("org/model@dddddddddddd", DIGEST, 30), served("org/model", OTHER_DIGEST, 8)]
    )
    keys = [row.key for row in view.models(state).rows]
    assert keys == ["org/model@dddddddddddd", "org/model@eeeeeeeeeeee"]


def test_a_picture_has_holes_in_red_replicas_as_digits_and_a_bar_for_each_holder():
    lines = picture.pictures(node_state(), 62)
    drawn = [words(line) for line in lines]
    assert drawn[1] == "replicas    " + "1" * 30 + " 29"
    assert drawn[2] == "desk*       " + "█" * 10 + " " * 20 + " 0:10"
    assert drawn[3] == "rack        " + " " * 10 + "█" * 20 + " 10:30"
    assert toned(lines[4], "dim").startswith("attic"), "who is suspected is not counted on"
    other = next(line for line in lines if toned(line, "hole"))
    assert toned(other, "hole") == "×" * 20
    assert toned(other, "good") == "1" * 20
    assert "can't be served: nobody holds 4:8" in "\n".join(drawn)


def test_what_is_about_to_be_loaded_is_in_the_picture():
    members = [member(THREE, "attic", intended=[{"model": "org/other", "layers": "4:8"}])]
    drawn = [words(line) for line in picture.pictures(node_state(members=members), 30)]
    assert "attic           ░░░░ coming" in drawn


def test_without_models_the_picture_says_what_to_do():
    assert "Press l" in words(picture.pictures(node_state(models=[]), 80)[0])


@given(
    st.integers(1, 200),
    st.integers(1, 120),
    st.lists(
        st.tuples(st.integers(0, 199), st.integers(1, 200)).filter(lambda at: at[0] < at[1]), max_size=4
    ),
)
def test_no_hole_is_hidden_however_narrow_the_line(
    layers: int, width: int, held: list[tuple[int, int]]
) -> None:
    spans = [LayerSpan(start, min(end, layers)) for start, end in held if start < layers]
    line = picture.layer_line(layers, spans, width)
    missing = any(not any(layer in span for span in spans) for layer in range(layers))
    assert len(words(line)) <= width
    assert ("×" in words(line)) == missing
    assert (toned(line, "hole") != "") == missing


def test_tokens_a_second_are_those_of_the_last_seconds():
    rates = view.Rates()
    assert columns(view.jobs(node_state(), rates), "tok/s") == [("",)]
    for second in range(10):
        tokens = 100 + second * 10 if second < 5 else 150 + (second - 5) * 40
        rates.observe(node_state(sessions=[session(7, tokens)]), float(second))
    assert rates.per_second(7) == pytest.approx(40.0)
    rates.observe(node_state(sessions=[session(7, 3)]), 10.0)
    assert rates.per_second(7) is None, "another process counts anew"
    rates.observe(node_state(sessions=[]), 11.0)
    assert rates.per_second(7) is None


def test_jobs_show_where_they_run_and_whether_they_moved():
    state = node_state(
        sessions=[session(9, 5, route=[]), session(7, 100, moves=1, recoveries=1, age_seconds=130)]
    )
    assert columns(view.jobs(state, view.Rates()), "job", "tokens", "age", "moved", "route") == [
        ("7", "100", "2 min", "2", "desk 0:10 → rack 10:30"),
        ("9", "5", "12 s", "", "looking for a path"),
    ]
    assert "2 answers of this front door, 3 sessions" in words(view.job_lines(state)[0])


def test_the_door_says_where_it_is_and_shows_ids_of_keys():
    assert "http://127.0.0.1:8000/v1" in words(view.server(node_state())[1])
    assert columns(view.keys(node_state()), "API key", "name") == [("0123456789ab", "laptop")]
    closed = node_state(door={"listen": None, "keys": [], "problem": ""})
    assert "Press o" in words(view.server(closed)[0])


def test_names_of_other_machines_can_not_steer_the_terminal():
    state = node_state(members=[member(TWO, "evil\x1b[2J\n", ("0:4", DIGEST))])
    lines = [
        *(row.cells for row in view.network(state, 200).rows),
        *view.member_details(state, TWO),
        *picture.pictures(state, 80),
    ]
    assert all(cell.text.isprintable() for line in lines for cell in line)
