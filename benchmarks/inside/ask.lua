-- What wrk asks: the requests of a file, one after the other, and what came of them as one line of JSON.
-- wrk -s ask.lua URL -- BODIES [TOKEN]; BODIES has a JSON document a line.
local bodies, place = {}, 0

function init(arguments)
  for line in io.lines(arguments[1]) do
    bodies[#bodies + 1] = line
  end
  wrk.method = "POST"
  wrk.headers["content-type"] = "application/json"
  if arguments[2] then
    wrk.headers["authorization"] = "Bearer " .. arguments[2]
  end
end

function request()
  place = place % #bodies + 1
  return wrk.format(nil, nil, nil, bodies[place])
end

function done(summary, latency)
  local failed = summary.errors
  io.write(string.format(
    'measured {"requests": %d, "seconds": %f, "p50": %f, "p99": %f, "max": %f, "lost": %d, "refused": %d}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    latency.max / 1e3, failed.connect + failed.read + failed.write + failed.timeout, failed.status))
end
