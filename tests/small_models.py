"""Small random models with every option of the model, and histories for them."""

import dataclasses

import torch

from vintix_fast.model import ModelConfig, TaskInfo, Vintix

SMALL = ModelConfig(
    action_emb_dim=11, observation_emb_dim=11, hidden_dim=24, context_len=32, transformer_depth=2, intermediate_size=20
)
OPTIONS = {
    "usual": {},
    "rms-norm": {"norm_class": "RMSNorm"},
    "llama-mlp": {"mlp_class": "LLaMAMLP"},
    "parallel": {"parallel_residual": True},
    "shared-norm": {"parallel_residual": True, "shared_attention_norm": True},
    "step-embedding": {"inner_ep_pos_enc": True},
    "norm-acs": {"norm_acs": True},
    "raw-observations": {"norm_obs": False},
    "no-qk-norm-no-bias": {"normalize_qk": False, "bias": False},
    "3-heads": {"transformer_heads": 3},
    "6-heads": {"transformer_heads": 6},
    "6-heads-of-64": {"transformer_heads": 6, "hidden_dim": 64, "action_emb_dim": 31, "observation_emb_dim": 31},
    "upstream-order": {"token_order": "observation-action-reward"},
}


def make_model(seed=0, **options):
    """A small random model whose biases, norms and statistics are not the neutral ones."""
    torch.manual_seed(seed)

    def numbers(n, low, high):
        return tuple((torch.rand(n) * (high - low) + low).tolist())

    info = TaskInfo(
        observation_dim=7,
        action_dim=5,
        obs_mean=numbers(7, -1, 1),
        obs_std=numbers(7, 0.1, 2),
        acs_mean=numbers(5, -1, 1),
        acs_std=numbers(5, 0.1, 2),
        reward_scale=0.7,
    )
    model = Vintix(dataclasses.replace(SMALL, **options), {"task": info}).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def make_history(model, envs, steps, task="task", seed=1):
    """Random inputs in which episodes of 5 to 12 steps follow one another, at other times in each environment."""
    generator = torch.Generator().manual_seed(seed)
    info = model.tasks[task]
    observation = torch.randn(envs, steps, info.observation_dim, generator=generator)
    action = torch.randn(envs, steps, info.action_dim, generator=generator)
    reward = torch.randn(envs, steps, generator=generator)
    lengths = torch.randint(5, 13, (envs,), generator=generator)
    step_num = (torch.arange(steps)[None] + lengths[:, None]) % lengths[:, None]
    return observation, action, reward, step_num


def forward_from(model, history, env, start, stop, task="task"):
    with torch.no_grad():
        return model(task, *(x[env : env + 1, start:stop] for x in history))[0]
