# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.GuidesTest do
  # The notebooks are run, cell by cell; what the guides show is at least Elixir, and calls functions
  # that are there.
  use ExUnit.Case, async: false

  alias GpuSched.RealPort

  @moduletag capture_log: true, timeout: 300_000
  @folder Path.expand("../../guides", __DIR__)

  defp cells(name) do
    text = File.read!(Path.join(@folder, name))
    for [_, code] <- Regex.scan(~r/^```elixir\n(.*?)^```/ms, text), do: code
  end

  # One after the other, each with what those before it have bound. The first installs what is here
  # already.
  defp run_cells(name) do
    [setup | cells] = cells(name)
    assert setup =~ ~r/^Mix.install\(/
    assert length(cells) >= 5

    Enum.reduce(cells, [], fn code, binding ->
      ExUnit.CaptureIO.capture_io(fn ->
        {_value, binding} = Code.eval_string(code, binding)
        send(self(), {:binding, binding})
      end)

      assert_received {:binding, binding}
      binding
    end)
  end

  defp environment(pairs) do
    before = for {name, _value} <- pairs, do: {name, System.get_env(name)}
    System.put_env(pairs)

    on_exit(fn ->
      for {name, value} <- before do
        if value, do: System.put_env(name, value), else: System.delete_env(name)
      end
    end)
  end

  defp start(models) do
    options = [
      name: GpuSched,
      port_path: RealPort.path(),
      port_options: [cpu_devices: 2],
      models: models
    ]

    start_supervised!({GpuSched, options})
    environment(%{"LB_GPU_HOST" => Atom.to_string(node()), "LB_SECONDS" => "1"})
  end

  if reason = RealPort.minilm_missing(), do: @tag(skip: reason)

  test "the notebook of first steps runs" do
    start([[name: "minilm", path: RealPort.minilm()]])
    binding = run_cells("first-steps.livemd")
    assert [[_ | _], _, _] = binding[:vectors]
  end

  if reason = RealPort.missing(), do: @tag(skip: reason)

  test "the notebook of load tests runs" do
    start([])
    binding = run_cells("load-test.livemd")
    assert length(binding[:run].points) == 3
    assert File.read!(binding[:path]) =~ "<svg"
    File.rm!(binding[:path])
  end

  for path <- Path.wildcard(Path.join(@folder, "*.{md,livemd}")), name = Path.basename(path) do
    test "#{name} shows Elixir, and functions that are there" do
      cells = cells(unquote(name))
      assert cells != []

      for code <- cells do
        ast = Code.string_to_quoted!(code)

        Macro.prewalk(ast, fn
          {{:., _, [{:__aliases__, _, [:GpuSched | _] = module}, function]}, _, args} = call
          when is_list(args) ->
            module = Module.concat(module)
            assert Code.ensure_loaded?(module), inspect(module)
            arities = for {^function, arity} <- module.__info__(:functions), do: arity
            # A pipe hands one more.
            assert length(args) in arities or (length(args) + 1) in arities,
                   "#{inspect(module)}.#{function}/#{length(args)}"

            call

          other ->
            other
        end)
      end
    end
  end

  test "the links between guides lead somewhere" do
    for path <- Path.wildcard(Path.join(@folder, "*.md")),
        [_, target] <- Regex.scan(~r/\]\(([^)#]+)\)/, File.read!(path)),
        not String.starts_with?(target, "http") do
      assert File.exists?(Path.join(@folder, target)), "#{path}: #{target}"
    end
  end
end
