# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.NxBridge do
  # The only module that touches Nx, which is looked for at run time: a dependency that is not
  # declared is compiled after us, so nothing about it is known when this is compiled.
  @moduledoc false

  alias GpuSched.Tensor

  @compile {:no_warn_undefined, Nx}

  @spec available? :: boolean
  def available?, do: Code.ensure_loaded?(Nx)

  # An Nx tensor as a plain one.
  @spec to_plain(struct) :: map
  def to_plain(tensor) do
    %{
      "datatype" => datatype(Nx.type(tensor)),
      "shape" => Tuple.to_list(Nx.shape(tensor)),
      "data" => Nx.to_binary(tensor)
    }
  end

  # A plain numeric tensor as one of Nx.
  @spec from_plain(map) :: struct
  def from_plain(%{"datatype" => datatype, "shape" => shape, "data" => data}) do
    data
    |> Nx.from_binary(type(datatype))
    |> Nx.reshape(List.to_tuple(shape))
  end

  for {name, {kind, bits}} <- Tensor.datatypes(), name != "BOOL" do
    defp datatype({unquote(kind), unquote(bits)}), do: unquote(name)
    defp type(unquote(name)), do: {unquote(kind), unquote(bits)}
  end

  # Nx has no booleans: its predicates are u8.
  defp type("BOOL"), do: {:u, 8}

  defp type(other) do
    raise ArgumentError,
          "a tensor of #{other} has no counterpart in Nx: ask for output: :list or :binary"
  end

  defp datatype(other) do
    raise ArgumentError, "an Nx tensor of type #{inspect(other)} cannot be sent"
  end
end
