-- Slots of backends: calls that run there, by the moment at which each is free again, whatever became of its process.
--
-- KEYS: the slots of a backend, for each thing that is asked
-- ARGV: for each of them: for how long in microseconds (0: give back), how many slots there are (0: enough for all),
--       how many calls, and those calls
-- returns for each how many of its calls have a slot now; who has one already keeps it
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]

local function has_slot(slots, call, lease, most)
    if lease == 0 then
        redis.call('ZREM', slots, call)
    elseif most == 0 or redis.call('ZCARD', slots) < most or redis.call('ZSCORE', slots, call) then
        redis.call('ZADD', slots, now + lease, call)
        redis.call('PEXPIRE', slots, math.ceil(lease / 1000))
        return 1
    end
    return 0
end

local answer, at = {}, 1
for asked, slots in ipairs(KEYS) do
    local lease, most, calls = tonumber(ARGV[at]), tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
    redis.call('ZREMRANGEBYSCORE', slots, '-inf', now)
    answer[asked] = 0
    for call = at + 3, at + 2 + calls do
        answer[asked] = answer[asked] + has_slot(slots, ARGV[call], lease, most)
    end
    at = at + 3 + calls
end
return answer
