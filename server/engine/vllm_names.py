"""The tables of every vLLM name that Boomerang touches; `compat.py` resolves them."""

from collections.abc import Mapping

VERSION = "0.32"
"""The minor version of vLLM that these tables describe."""

NAMES: Mapping[str, str] = {
    "AsyncEngineArgs": "vllm.engine.arg_utils:AsyncEngineArgs",
    "AsyncLLM": "vllm.v1.engine.async_llm:AsyncLLM",
    "AsyncScheduler": "vllm.v1.core.sched.async_scheduler:AsyncScheduler",
    "AttentionLayerBase": "vllm.model_executor.layers.attention_layer_base:AttentionLayerBase",
    "AutoWeightsLoader": "vllm.model_executor.models.utils:AutoWeightsLoader",
    "BatchDescriptor": "vllm.forward_context:BatchDescriptor",
    "ChatCompletionRequest": (
        "vllm.entrypoints.openai.chat_completion.protocol:ChatCompletionRequest"
    ),
    "CompilationMode": "vllm.config:CompilationMode",
    "CompletionRequest": "vllm.entrypoints.openai.completion.protocol:CompletionRequest",
    "CPUModelRunner": "vllm.v1.worker.cpu_model_runner:CPUModelRunner",
    "CPUWorker": "vllm.v1.worker.cpu_worker:CPUWorker",
    "create_chat_completion": (
        "vllm.entrypoints.openai.chat_completion.api_router:create_chat_completion"
    ),
    "create_completion": "vllm.entrypoints.openai.completion.api_router:create_completion",
    "create_responses": "vllm.entrypoints.openai.responses.api_router:create_responses",
    "create_error_response": "vllm.entrypoints.serve:create_error_response",
    "CUDAGraphMode": "vllm.config:CUDAGraphMode",
    "CustomOp": "vllm.model_executor.custom_op:CustomOp",
    "current_platform": "vllm.platforms:current_platform",
    "detokenize": "vllm.entrypoints.serve.tokenize.api_router:detokenize",
    "DetokenizeRequest": "vllm.entrypoints.serve.tokenize.protocol:DetokenizeRequest",
    "dispatch_cpu_unquantized_gemm": (
        "vllm.model_executor.layers.utils:dispatch_cpu_unquantized_gemm"
    ),
    "EngineClient": "vllm.engine.protocol:EngineClient",
    "EngineDeadError": "vllm.v1.engine.exceptions:EngineDeadError",
    "extract_layer_index": "vllm.model_executor.models.utils:extract_layer_index",
    "FlexibleArgumentParser": "vllm.utils.argparse_utils:FlexibleArgumentParser",
    "FullAttentionManager": "vllm.v1.core.single_type_kv_cache_manager:FullAttentionManager",
    "FullAttentionSpec": "vllm.v1.kv_cache_interface:FullAttentionSpec",
    "get_tp_group": "vllm.distributed:get_tp_group",
    "GPT2Block": "vllm.model_executor.models.gpt2:GPT2Block",
    "GPT2Model": "vllm.model_executor.models.gpt2:GPT2Model",
    "GPUModelRunner": "vllm.v1.worker.gpu_model_runner:GPUModelRunner",
    "GPUWorker": "vllm.v1.worker.gpu_worker:Worker",
    "HybridKVCacheCoordinator": "vllm.v1.core.kv_cache_coordinator:HybridKVCacheCoordinator",
    "init_app_state": "vllm.entrypoints.launchers.api_server.app_state:init_app_state",
    "ir_ops": "vllm.ir:ops",
    "is_breakable_cudagraph_enabled": (
        "vllm.compilation.breakable_cudagraph:is_breakable_cudagraph_enabled"
    ),
    "KVCacheManager": "vllm.v1.core.kv_cache_manager:KVCacheManager",
    "KVCacheSpecRegistry": "vllm.v1.kv_cache_spec_registry:KVCacheSpecRegistry",
    "LayerNorm": "vllm.model_executor.layers.layernorm:LayerNorm",
    "LinearBase": "vllm.model_executor.layers.linear:LinearBase",
    "LinearMethodBase": "vllm.model_executor.layers.linear:LinearMethodBase",
    "LlamaDecoderLayer": "vllm.model_executor.models.llama:LlamaDecoderLayer",
    "LlamaModel": "vllm.model_executor.models.llama:LlamaModel",
    "LLM": "vllm:LLM",
    "LogitsComputer": "vllm.model_executor.layers.logits_processor:LogitsProcessor",
    "LogitsProcessor": "vllm.v1.sample.logits_processor:LogitsProcessor",
    "LoRARequest": "vllm.lora.request:LoRARequest",
    "make_arg_parser": "vllm.entrypoints.launchers.cli_args:make_arg_parser",
    "MistralDecoderLayer": "vllm.model_executor.models.mistral:MistralDecoderLayer",
    "ModelRegistry": "vllm:ModelRegistry",
    "MultiGroupBlockTable": "vllm.v1.worker.block_table:MultiGroupBlockTable",
    "ParallelLMHead": "vllm.model_executor.layers.vocab_parallel_embedding:ParallelLMHead",
    "Qwen2DecoderLayer": "vllm.model_executor.models.qwen2:Qwen2DecoderLayer",
    "Qwen2Model": "vllm.model_executor.models.qwen2:Qwen2Model",
    "Qwen3DecoderLayer": "vllm.model_executor.models.qwen3:Qwen3DecoderLayer",
    "process_weights_after_loading": (
        "vllm.model_executor.model_loader.utils:process_weights_after_loading"
    ),
    "ReasoningParserManager": "vllm.reasoning:ReasoningParserManager",
    "ResponsesRequest": "vllm.entrypoints.openai.responses.protocol:ResponsesRequest",
    "RequestOutputKind": "vllm.sampling_params:RequestOutputKind",
    "RetryableRequestError": "vllm.exceptions:RetryableRequestError",
    "RMSNorm": "vllm.model_executor.layers.layernorm:RMSNorm",
    "RowParallelLinear": "vllm.model_executor.layers.linear:RowParallelLinear",
    "SamplingParams": "vllm:SamplingParams",
    "Scheduler": "vllm.v1.core.sched.scheduler:Scheduler",
    "set_cudagraph_capturing_enabled": ("vllm.compilation.monitor:set_cudagraph_capturing_enabled"),
    "set_current_vllm_config": "vllm.config:set_current_vllm_config",
    "set_forward_context": "vllm.forward_context:set_forward_context",
    "SlotMappingMode": "vllm.v1.worker.block_table:SlotMappingMode",
    "StatLoggerBase": "vllm.v1.metrics.loggers:StatLoggerBase",
    "tokenize": "vllm.entrypoints.serve.tokenize.api_router:tokenize",
    "TokenizeChatRequest": "vllm.entrypoints.serve.tokenize.protocol:TokenizeChatRequest",
    "TokenizeCompletionRequest": (
        "vllm.entrypoints.serve.tokenize.protocol:TokenizeCompletionRequest"
    ),
    "ToolParserManager": "vllm.tool_parsers:ToolParserManager",
    "UBatchSlice": "vllm.v1.worker.ubatch_utils:UBatchSlice",
    "UsageContext": "vllm.usage.usage_lib:UsageContext",
    "VLLMError": "vllm.exceptions:VLLMError",
    "with_sse_keep_alive": "vllm.entrypoints.serve.utils.sse_keep_alive:with_sse_keep_alive",
    "WorkerBase": "vllm.v1.worker.worker_base:WorkerBase",
    "VocabParallelEmbedding": (
        "vllm.model_executor.layers.vocab_parallel_embedding:VocabParallelEmbedding"
    ),
}
"""Name in this module → ``module:attribute`` (or a module) in vLLM."""

_RUNNER = "vllm.v1.worker.gpu_model_runner:GPUModelRunner"
_LINEAR = "vllm.model_executor.layers.linear"
_KV_GROUP = "vllm.v1.core.single_type_kv_cache_manager:FullAttentionManager"
_KV = "vllm.v1.core.kv_cache_manager:KVCacheManager"
_TABLES = "vllm.v1.worker.block_table:MultiGroupBlockTable"
_KV_SPEC = "vllm.v1.kv_cache_interface:FullAttentionSpec"
_KV_REGISTRY = "vllm.v1.kv_cache_spec_registry:KVCacheSpecRegistry"

MEMBERS: Mapping[str, tuple[str, ...]] = {
    f"{_RUNNER}.__init__": ("vllm_config", "device"),
    f"{_RUNNER}._build_attention_metadata": ("ubatch_slices", "slot_mappings"),
    f"{_RUNNER}._check_and_update_cudagraph_mode": (),
    f"{_RUNNER}._determine_batch_execution_and_padding": (
        "force_eager",
        "num_scheduled_tokens_np",
    ),
    f"{_RUNNER}._get_prompt_logprobs_dict": ("hidden_states", "num_scheduled_tokens"),
    f"{_RUNNER}._get_slot_mappings": ("ubatch_slices",),
    f"{_RUNNER}._may_reorder_batch": ("scheduler_output",),
    f"{_RUNNER}._make_buffer": ("dtype",),
    f"{_RUNNER}._model_forward": ("input_ids", "positions"),
    f"{_RUNNER}._warmup_and_capture": ("desc",),
    f"{_RUNNER}.calculate_reorder_batch_threshold": (),
    f"{_RUNNER}.capture_model": (),
    f"{_RUNNER}.execute_model": ("scheduler_output",),
    f"{_RUNNER}.get_kv_cache_spec": (),
    f"{_RUNNER}.get_model": (),
    f"{_RUNNER}.initialize_kv_cache": ("kv_cache_config",),
    f"{_RUNNER}.sample_tokens": ("grammar_output",),
    "vllm.compilation.breakable_cudagraph:_BreakableEntry": ("batch_descriptor", "capture"),
    "vllm.compilation.breakable_cudagraph:BreakableCUDAGraphCapture.num_eager_breaks": (),
    "vllm.compilation.cuda_graph:CUDAGraphEntry": ("batch_descriptor",),
    "vllm.v1.cudagraph_dispatcher:CudagraphDispatcher.initialize_cudagraph_keys": (
        "cudagraph_mode",
    ),
    "vllm.v1.worker.gpu_worker:Worker._make_model_runner": (),
    "vllm.v1.worker.gpu_worker:Worker.compile_or_warm_up_model": (),
    "vllm.v1.worker.gpu_worker:Worker.shutdown": (),
    "vllm.v1.worker.cpu_worker:CPUWorker.compile_or_warm_up_model": (),
    "vllm.v1.worker.cpu_worker:CPUWorker.init_device": (),
    "vllm.v1.worker.cpu_worker:CPUModelRunner": (),
    "vllm.v1.worker.block_table:BlockTable._make_buffer": ("dtype",),
    "vllm.v1.worker.utils:AttentionGroup": ("kernel_block_size", "metadata_builders"),
    f"{_TABLES}.commit_block_table": ("num_reqs",),
    f"{_TABLES}.compute_slot_mapping": ("num_reqs", "query_start_loc", "positions"),
    "vllm.v1.worker.gpu_input_batch:InputBatch.__init__": ("logitsprocs_need_output_token_ids",),
    "vllm.v1.sample.metadata:SamplingMetadata": ("generators",),
    "vllm.v1.worker.gpu_input_batch:InputBatch.swap_states": ("i1", "i2"),
    "vllm.v1.core.sched.scheduler:Scheduler.add_request": ("request",),
    "vllm.v1.core.sched.scheduler:Scheduler.shutdown": (),
    "vllm.v1.core.sched.scheduler:Scheduler.update_from_output": (
        "scheduler_output",
        "model_runner_output",
    ),
    "vllm.v1.core.sched.scheduler:KVCacheManager": (),  # the scheduler builds it by this name
    f"{_KV}.allocate_slots": ("request", "num_new_tokens", "num_lookahead_tokens"),
    f"{_KV}.cache_blocks": ("request", "num_computed_tokens"),
    f"{_KV}.free": ("request",),
    f"{_KV}.get_computed_blocks": ("request",),
    f"{_KV}.pop_blocks_for_free": ("request",),
    f"{_KV}.estimate_cached_tokens": ("request",),
    f"{_KV}.get_blocks": ("request_id",),
    f"{_KV_GROUP}.get_num_blocks_to_allocate": ("request_id",),
    f"{_KV_GROUP}.allocate_new_blocks": ("request_id",),
    f"{_KV_GROUP}.cache_blocks": ("request",),
    f"{_KV_GROUP}.pop_blocks_for_free": ("request_id",),
    f"{_KV_SPEC}.merge": ("specs",),
    f"{_KV_SPEC}.is_uniform_with_collection": ("kv_cache_specs",),
    f"{_KV_REGISTRY}.check_kv_cache_spec_registry": ("kv_cache_spec",),
    f"{_KV_REGISTRY}.register": (
        "kvcache_spec_cls",
        "manager_class",
        "uniform_type_base_spec",
    ),
    "vllm.engine.arg_utils:EngineArgs": (
        "attention_backend",
        "attention_config",
        "gpu_memory_utilization",
    ),
    "vllm.platforms.interface:Platform.get_device_capability": (),
    "vllm.v1.engine.async_llm:AsyncLLM._run_output_handler": (),  # it makes `output_handler`
    "vllm.v1.engine.async_llm:AsyncLLM.from_engine_args": (
        "engine_args",
        "stat_loggers",
        "usage_context",
    ),
    "vllm.v1.engine.input_processor:InputProcessor.process_inputs": (
        "request_id",
        "prompt",
        "params",
        "supported_tasks",
    ),
    "vllm.v1.engine.output_processor:OutputProcessor.has_unfinished_requests": (),
    "vllm.v1.engine.async_llm:AsyncLLM.do_log_stats": (),
    "vllm.v1.engine.async_llm:AsyncLLM.shutdown": ("timeout",),
    "vllm.entrypoints.openai.completion.protocol:CompletionRequest.build_tok_params": (
        "model_config",
    ),
    "vllm.entrypoints.openai.chat_completion.protocol:ChatCompletionRequest.build_tok_params": (
        "model_config",
    ),
    "vllm.entrypoints.openai.responses.protocol:ResponsesRequest.build_tok_params": (
        "model_config",
    ),
    (
        "vllm.entrypoints.openai.responses.serving:"
        "OpenAIServingResponses._generate_with_builtin_tools"
    ): ("request_id", "engine_input", "sampling_params"),
    "vllm.reasoning:ReasoningParserManager.list_registered": (),
    "vllm.tool_parsers:ToolParserManager.list_registered": (),
    "vllm.renderers.base:BaseRenderer.validate_token_ids": ("token_ids", "parameter"),
    "vllm.renderers.params:TokenizeParams": ("max_total_tokens", "max_output_tokens"),
    "vllm.v1.metrics.loggers:StatLoggerBase.record": ("scheduler_stats", "iteration_stats"),
    "vllm.v1.metrics.stats:RequestStateStats": (
        "first_token_latency",
        "first_token_ts",
        "last_token_ts",
        "num_generation_tokens",
    ),
    "vllm.v1.metrics.stats:SchedulerStats": (
        "kv_cache_usage",
        "num_running_reqs",
        "num_waiting_reqs",
        "running_lora_adapters",
        "waiting_lora_adapters",
    ),
    "vllm.v1.request:Request.update_block_hashes": (),
    "vllm.v1.sample.logits_processor:LogitsProcessor.validate_params": ("sampling_params",),
    f"{_LINEAR}:QKVParallelLinear.weight_loader": ("param", "loaded_weight", "loaded_shard_id"),
    f"{_LINEAR}:MergedColumnParallelLinear.weight_loader": (
        "param",
        "loaded_weight",
        "loaded_shard_id",
    ),
    f"{_LINEAR}:ColumnParallelLinear.weight_loader": ("param", "loaded_weight"),
    f"{_LINEAR}:RowParallelLinear.weight_loader": ("param", "loaded_weight"),
    f"{_LINEAR}:LinearMethodBase.apply": ("layer", "x", "bias"),
    "vllm.model_executor.layers.utils:dispatch_cpu_unquantized_gemm": ("layer", "remove_weight"),
    "vllm.model_executor.model_loader.utils:process_weights_after_loading": (
        "model",
        "model_config",
        "target_device",
    ),
    "vllm.model_executor.custom_op:CustomOp.dispatch_forward": (),  # it makes `_forward_method`
    "vllm.model_executor.custom_op:CustomOp.forward_native": (),
    "vllm.ir:ops.rms_norm.set_priority": ("priority",),
    "vllm.ir:ops.fused_add_rms_norm.set_priority": ("priority",),
    "vllm.v1.engine.async_llm:AsyncLLM.collective_rpc": ("method", "args"),
    "vllm:LLM.generate": ("prompts", "sampling_params"),
    "vllm:SamplingParams": ("extra_args", "seed", "stop_token_ids", "detokenize"),
}
"""``module:attribute`` that is overridden or called → the parameters that we rely on."""

ONLY_ON: Mapping[str, str] = {
    "vllm.v1.worker.cpu_model_runner:CPUModelRunner": "cpu",
    "vllm.v1.worker.cpu_worker:CPUModelRunner": "cpu",
    "vllm.v1.worker.cpu_worker:CPUWorker": "cpu",
    "vllm.v1.worker.cpu_worker:CPUWorker.compile_or_warm_up_model": "cpu",
    "vllm.v1.worker.cpu_worker:CPUWorker.init_device": "cpu",
    "vllm.v1.worker.gpu_worker:Worker": "gpu",
    "vllm.v1.worker.gpu_worker:Worker._make_model_runner": "gpu",
    "vllm.v1.worker.gpu_worker:Worker.compile_or_warm_up_model": "gpu",
}
"""What one platform alone needs, of both tables; everything else is needed on both."""
