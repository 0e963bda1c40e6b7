"""What every training shares: loading (LoRA, 4-bit), arguments, resuming from the last whole checkpoint, curve, cost.

Resumable state lives in a work folder named by a fingerprint of settings, data, parent and code: the same
fingerprint resumes, another starts afresh. A checkpoint counts once its `trainer_state.json`, written last, parses; it
is resumed by any number of processes (`portable`), DeepSpeed's own by as many as wrote it.

Many processes share the rows of a step (`split_batch`, `ProcessShare`) and, by envs/accelerate, weights, gradients and
AdamW's two moments: 4 bytes a parameter each, 16 in all, since the weights that are trained are always held in 32 bits,
and bfloat16 is only computed in. Low-rank adapters need the 4 bytes of the weights, and 16 for each of their own.
Under FSDP a process reads of the weights its share alone, and the policy that is kept is written a tensor at a time
(`sharding`, `streaming`); under ZeRO's third stage it reads one tensor after the other and keeps its part (`zero`). Not
covered: tensor and sequence parallelism.
"""
