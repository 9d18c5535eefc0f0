"""Two processes that are stopped go on exactly, and one alone says that there were two."""

from train_saving import logs, same, trainer, weights

from train_proc_fork import all_of


def _work(rank, world, folder, checkpoint):
    made = trainer(folder, num_train_epochs=2, save_steps=2, gradient_accumulation_steps=1)
    made.train(resume_from_checkpoint=checkpoint)
    return weights(made), logs(made)


def test_two_processes_go_on_exactly(tmp_path, caplog):
    whole = all_of(_work, 2, tmp_path / "a", str(tmp_path / "out"), None)
    checkpoint = tmp_path / "out" / "checkpoint-4"
    names = {path.name for path in checkpoint.iterdir()}
    assert {"rng_state_0.pth", "rng_state_1.pth", "resume_state_0.pth", "resume_state_1.pth"} <= names
    again = all_of(_work, 2, tmp_path / "b", str(tmp_path / "out"), str(checkpoint))
    for (tensors, history), (others, later) in zip(whole, again, strict=True):
        assert same(tensors, others)
        assert history == later
    caplog.set_level("WARNING", logger="omniform")
    alone = trainer(tmp_path / "out", num_train_epochs=2, gradient_accumulation_steps=1)
    alone.train(resume_from_checkpoint=str(checkpoint))
    assert "world_size: 2 then, 1 now" in caplog.text
    assert alone.state.global_step > 4
