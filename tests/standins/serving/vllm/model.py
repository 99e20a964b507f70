"""A model as vLLM runs it: the tokens of all requests in one flat batch."""

import torch


class Layer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.mlp = torch.nn.Linear(4, 4, bias=False)

    def forward(self, x):
        return x + self.mlp(x)


class TinyForCausalLM(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed = torch.nn.Embedding(32, 4)
        self.layers = torch.nn.ModuleList([Layer(), Layer()])

    def forward(self, input_ids, positions):
        x = self.embed(input_ids) + positions[:, None]
        for layer in self.layers:
            x = layer(x)
        return x
