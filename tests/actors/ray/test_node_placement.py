"""Places: actors go to the nodes of their role, else to those that work, never to the head if it can be helped."""

from typing import Any

from actors.ray.node_placement import candidates, spread


def node(name: str, cpus: float = 1.0, role: str | None = None, alive: bool = True) -> dict[str, Any]:
    labels = {} if role is None else {"leworld-role": role}
    return {"NodeID": name, "Alive": alive, "Resources": {"CPU": cpus} if cpus else {}, "Labels": labels}


HEAD = node("0head", cpus=0)


def test_the_nodes_of_a_role_come_first():
    nodes = [HEAD, node("a"), node("b", role="slm"), node("c", cpus=0, role="slm"), node("d", role="memory")]
    assert candidates("slm", nodes) == ["b", "c"]


def test_without_a_role_it_is_those_that_work():
    assert candidates("slm", [HEAD, node("b"), node("a"), node("c", role="memory"), node("d", alive=False)]) == [
        "a",
        "b",
    ]


def test_where_there_is_only_a_head_it_is_the_head():
    assert candidates("slm", [HEAD]) == ["0head"]
    assert candidates("slm", [HEAD, node("a", role="memory")]) == ["0head", "a"]


def test_actors_are_dealt_out_one_after_the_other():
    first, second = "aa" * 28, "bb" * 28
    places = spread("slm", 5, [HEAD, node(first), node(second)])
    assert [place.node_id for place in places] == [first, second, first, second, first]
    assert not any(place.soft for place in places), "Ray would not heed it"
