"""Data flow as a networkx graph, and when two are the same."""

import networkx as nx

from dooly.ir import Block, format_type, spec_of
from dooly.ir.printer import format_attributes

__all__ = ["flow_of", "isomorphic"]


def isomorphic(a: "nx.DiGraph[str]", b: "nx.DiGraph[str]") -> bool:
    """Whether the same operations on the same types are linked alike."""
    return nx.is_isomorphic(a, b, node_match=lambda x, y: x["label"] == y["label"])


def flow_of(body: Block) -> "nx.DiGraph[str]":
    """Data flow of a block: a node per argument, per operation and per operand slot, labelled by what it does."""
    flow: nx.DiGraph[str] = nx.DiGraph()
    for value in body.args:
        flow.add_node(value.name, label=f"arg {format_type(value.type)}")
    for op in body.ops:
        types = ", ".join(format_type(value.type) for value in op.results)
        flow.add_node(f"op {op.name}", label=f"{op.target}{format_attributes(op.attrs)} : {types}")
        commutes = spec_of(op.target).commutes
        for slot, name in enumerate(op.operands):
            flow.add_node(f"slot {op.name} {slot}", label="slot" if commutes else f"slot {slot}")
            flow.add_edge(name, f"slot {op.name} {slot}")
            flow.add_edge(f"slot {op.name} {slot}", f"op {op.name}")
        for index, value in enumerate(op.results):
            flow.add_node(value.name, label=f"result {index}")
            flow.add_edge(f"op {op.name}", value.name)
    for name in body.outputs:
        flow.add_node(f"out {name}", label="out")
        flow.add_edge(name, f"out {name}")
    return flow
