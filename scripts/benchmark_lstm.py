"""A training step of a word language model in a process of its own, for `benchmark.py lstm`: the zoo's or PyTorch's."""

import time

from benchmark_cases import LanguageModel
from benchmark_worker import serve


def zoo_engine(case: LanguageModel):
    import zoo  # isort: skip  first: it sets up the memory before NumPy starts a thread

    import jax
    from benchmark_zoo import compiled_step

    from zoo.run import prepare

    config = zoo.config.default()
    config.model = {"name": "lstm_lm", "width": case.width, "depth": 2, "dropout": case.dropout, "biases": 2}
    config.task = {"name": "language_model"}
    config.data.update(
        batch_size=case.batch_size, eval_batch_size=case.batch_size, length=case.length, validation=0.0, test=0.0
    )
    config.optim.update(name="sgd", lr=1.0, clip_global_norm=case.clip)
    config.schedule.name = "constant"
    config.total_steps = 10**9
    # The zoo cuts the text into one stream per row itself; each row's last word is only ever predicted.
    text = case.text()[:, :-1].reshape(-1)
    source = zoo.Source({"token": text}, vocab=("<eos>", *map(str, range(1, case.words))))
    run = prepare(config, source)
    parameters = sum(x.size for x in jax.tree.leaves(run.shapes[0].params))
    assert parameters == case.parameters, f"{parameters} parameters"
    return {"train": compiled_step(run, run.dataset.train.fetch)}


def torch_engine(case: LanguageModel):
    import torch
    from benchmark_harness import cpus
    from torch import nn

    torch.set_num_threads(cpus())
    torch.manual_seed(0)

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.dropout = nn.Embedding(case.words, case.width), nn.Dropout(case.dropout)
            self.lstm = nn.LSTM(case.width, case.width, 2, dropout=case.dropout)
            self.head = nn.Linear(case.width, case.words)

        def forward(self, token_TB, carry):  # noqa: N803
            hidden_TBD, carry = self.lstm(self.dropout(self.embedding(token_TB)), carry)
            return self.head(self.dropout(hidden_TBD)), carry

    network = Network()
    parameters = sum(p.numel() for p in network.parameters())
    assert parameters == case.parameters, f"{parameters} parameters"
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    text_TB = torch.from_numpy(case.text()).long().t().contiguous()
    carry, window = None, 0

    def train(steps: int) -> float:
        nonlocal carry, window
        started = time.perf_counter()
        for _ in range(steps):
            first = window % case.windows * case.length
            if first == 0:
                carry = None
            optimizer.zero_grad()
            logits, carry = network(text_TB[first : first + case.length], carry)
            target = text_TB[first + 1 : first + case.length + 1]
            nn.functional.cross_entropy(logits.flatten(0, 1), target.flatten()).backward()
            nn.utils.clip_grad_norm_(network.parameters(), case.clip)
            optimizer.step()
            carry = tuple(part.detach() for part in carry)
            window += 1
        return time.perf_counter() - started

    return {"train": train}


ENGINES = {"zoo": zoo_engine, "torch": torch_engine}

if __name__ == "__main__":
    serve(lambda library, case: ENGINES[library](LanguageModel(*case)))
