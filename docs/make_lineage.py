"""Write docs/lineage.md and its Chinese version from the table that `snakemake lineage` has made.

python docs/make_lineage.py results/lineage.md
"""

import re
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent

HEADS = {
    "lineage.md": (
        "# Six ways of making a calibration set, measured\n\n"
        "[中文](lineage.zh-CN.md)\n\n"
        "[The calibration set](calibration.md#six-ways-of-making-a-set) says what the recipes and "
        "the columns are.\n\n"
    ),
    "lineage.zh-CN.md": (
        "# 六种校准集做法的实测对比\n\n"
        "[English](lineage.md)\n\n"
        "各方法和各列的含义见[校准集](calibration.zh-CN.md#六种做法)。\n\n"
    ),
}

CHINESE = {
    "recipe": "方法",
    "features, states, rows": "特征、状态、选行",
    "rows": "行数",
    "files": "文件数",
    "on disk": "磁盘占用",
    "memory": "内存",
    "time": "耗时",
    "feature error, mean (max)": "特征误差，平均（最大）",
    "range covered, mean (worst)": "范围覆盖，平均（最差）",
    "widest": "最宽",
    "toolkit": "工具包",
    "SQNR, one step": "SQNR，单步",
    "free-running": "free-running",
    "error rate": "错误率",
    "same text as float": "与浮点文本相同",
    "taken": "接受",
    "refused": "拒绝",
}
"""What stands alone in a cell of the table."""

PHRASES = (
    (r"\(all: (.*?)\)", r"（全部：\1）"),
    (r"^Error rate of the float model: (.*)\.$", r"浮点模型的错误率：\1。"),
    (r"^(`.*?`) is refused: (.*)$", r"\1 被拒绝，Zipquant 给出的原因：\2"),
)


def translate(line: str) -> str:
    """Return a line of the table's page in Chinese; figures and messages stay as they are."""
    if line.startswith("|"):
        cells = [CHINESE.get(cell.strip(), cell.strip()) for cell in line.strip("|").split("|")]
        line = f"| {' | '.join(cells)} |"
    for pattern, chinese in PHRASES:
        line = re.sub(pattern, chinese, line)
    return line


def main() -> None:
    text = Path(sys.argv[1]).read_text(encoding="utf-8")
    text = text[text.index("| recipe |") :]
    chinese = "\n".join(map(translate, text.split("\n")))
    for (name, head), body in zip(HEADS.items(), (text, chinese), strict=True):
        (DOCS / name).write_text(head + body, encoding="utf-8")


if __name__ == "__main__":
    main()
