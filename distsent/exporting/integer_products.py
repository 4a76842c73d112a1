"""Quantized linear layers as onnxruntime's integer product, which adds the bias as it writes.

onnxruntime makes these nodes itself when it loads a graph of QuantizeLinear and DequantizeLinear,
but leaves the bias to a pass of its own: with two threads, a MiniLM took 1.15 times as long. The
results are the same, bit for bit.
"""

from collections import defaultdict
from typing import Any

DOMAIN, OPERATOR = "com.microsoft", "MatMulIntegerToFloat"


def join(model: Any) -> None:
    """Replace MatMul nodes of dequantized inputs, and an Add of a bias behind them, in place."""
    from onnx import helper

    graph = model.graph
    made_by: dict[str, Any] = {name: node for node in graph.node for name in node.output}
    read_by = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            read_by[name].append(node)
    sizes = {one.name: list(one.dims) for one in graph.initializer}
    ends, added = {one.name for one in graph.output}, set()
    for node in graph.node:
        x, W = (made_by.get(name, node) for name in (*node.input, "", "")[:2])
        if node.op_type != "MatMul" or not _dequantize(x) or not _dequantize(W):
            continue
        (product,), inputs = node.output, list(x.input)
        inputs = [y for pair in zip(inputs, W.input, strict=True) for y in pair]
        readers = read_by[product] if product not in ends else []
        if len(readers) == 1 and readers[0].op_type == "Add":
            (bias,) = (set(readers[0].input) - {product}) or {""}
            if sizes.get(bias) == sizes.get(W.input[0], [])[1:]:
                inputs.append(bias)
                added.add(readers[0].output[0])
                node.output[0] = readers[0].output[0]
        node.op_type, node.domain = OPERATOR, DOMAIN
        del node.input[:]
        node.input.extend(inputs)
    nodes = [x for x in graph.node if x.op_type != "Add" or x.output[0] not in added]
    read = {name for node in nodes for name in node.input} | ends
    nodes = [node for node in nodes if read.intersection(node.output)]
    del graph.node[:]
    graph.node.extend(nodes)
    if all(one.domain != DOMAIN for one in model.opset_import):
        model.opset_import.append(helper.make_opsetid(DOMAIN, 1))


def _dequantize(node: Any) -> bool:
    return node.op_type == "DequantizeLinear" and len(node.input) == 3
