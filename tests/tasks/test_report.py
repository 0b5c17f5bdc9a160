from fm.recipe import Recipe
from tasks.report import finest, next_commands


def test_three_commands_to_go_on_with() -> None:
    commands = next_commands("runs/demo", Recipe.load("demo"))
    assert [command.split("fm ")[1].split()[0] for command, _ in commands] == ["sample", "up", "pipeline"]
    assert "runs/demo" in commands[0][0]


def test_the_pictures_are_drawn_as_the_finest_row_of_the_table() -> None:
    assert str(finest(Recipe.load("demo"))) == "midpoint 16"
    adaptive = [{"solver": "dopri5", "tolerance": 1e-3, "samples": 20}]
    assert str(finest(Recipe.load("demo", {"evaluation.grid": adaptive}))) == "dopri5 0.001"
