from fm.cells import cells
from fm.recipe import Recipe
from fm.results import Row
from tasks.report import budgets, finest, measured_cells, next_commands


def test_three_commands_to_go_on_with() -> None:
    commands = next_commands("runs/demo", Recipe.load("demo"))
    assert [command.split("fm ")[1].split()[0] for command, _ in commands] == ["sample", "up", "pipeline"]
    assert "runs/demo" in commands[0][0] and commands[2][0].endswith("--preset demo")
    renamed = next_commands("runs/x", Recipe.load("demo", ["name=photos-mini"]))
    assert renamed[2][0].endswith("--preset runs/x")
    drawn = next_commands("runs/x", Recipe.load("demo", ["training.drawn_by=0123456789abcdef"]))
    assert [command.split("fm ")[1].split()[0] for command, _ in drawn] == ["sample", "up"]


def test_the_pictures_are_drawn_as_the_finest_row_of_the_table_that_was_measured() -> None:
    def rows(*changes: str) -> list[Row]:
        found = cells(Recipe.load("demo", changes).evaluation)
        return [{"weights": "w", "cell": cell.model_dump_json()} for cell in found]

    measured = rows()
    assert str(finest(measured_cells(measured, "w"))) == "midpoint 16"
    failed = [row | {"failed": "why"} if '"midpoint","nfe":16' in row["cell"] else row for row in measured]
    assert str(finest(measured_cells(failed, "w"))) == "euler 16"
    assert (
        str(finest(measured_cells(rows("evaluation.grid=[{solver='dopri5', tolerance=1e-3}]"), "w"))) == "dopri5 0.001"
    )


def test_the_budgets_beside_each_other_are_those_of_one_solver() -> None:
    def shown(*changes: str) -> list[str]:
        return [str(cell) for cell in budgets(cells(Recipe.load("demo", changes).evaluation))]

    assert shown() == ["euler 4", "euler 8", "euler 16"]  # the most
    assert shown("evaluation.grid=[{solver='midpoint', nfe=8}, {solver='dopri5', tolerance=1e-3}]") == []
    assert [str(cell) for cell in budgets(cells(Recipe.load("imagenet128").evaluation))] == [
        f"midpoint {nfe}" for nfe in (10, 20, 40, 100)
    ]
